//! Boxes as directories.

use std::path::PathBuf;

use async_trait::async_trait;
use crabbox_core::Labels;
use crabbox_core::authority::VerifiedBinding;
use crabbox_core::backend::{Backend, Checkpoints, DelegatedRunBackend, Files, HostWorkspace, Lifecycle, Pause};
use crabbox_core::error::{Error, Result};
use crabbox_core::machine::{Absence, Binding, Inventory, Machine, MachineState, Observed, Outcome, ResourceId, Scope};
use crabbox_core::remote::{ByteWriter, ExecRequest, ExecStatus, HostDirectory, OutputSink, RemotePath, Upload};
use crabbox_core::request::{
    Check, CheckStatus, CheckpointObserved, CreateCheckpoint, CreateLease, DoctorReport, Journal, ListQuery,
    NativeCheckpoint, Probe, Requirements,
};
use crabbox_core::spec::{Egress, Persistence, Target};
use crabbox_testkit::{processes, random_hex};
use rustix::process::{Pid, Signal};

use super::Defect;

pub(super) struct Boxes {
    pub(super) root: PathBuf,
    pub(super) defect: Option<Defect>,
}

impl Boxes {
    pub(super) fn is(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    pub(super) fn home(&self, id: &str) -> PathBuf {
        self.root.join("boxes").join(id)
    }

    fn write_labels(&self, id: &str, labels: &Labels) {
        let lines: String = labels.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let temporary = self.home(id).join(format!("labels.{}", random_hex(4)));
        std::fs::write(&temporary, lines).unwrap();
        std::fs::rename(temporary, self.home(id).join("labels")).unwrap();
    }

    fn read(&self, id: &str) -> Option<Machine> {
        if id.contains('/') || !self.home(id).is_dir() {
            return None;
        }
        let text = std::fs::read_to_string(self.home(id).join("labels")).unwrap_or_default();
        let pair = |line: &str| {
            line.split_once('=')
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
        };
        let labels = Labels::from_observed(text.lines().filter_map(pair));
        let mut machine = Machine::new("plain", ResourceId::new(id), labels, Target::LINUX);
        machine.work_root = self.home(id).join("work").to_str().unwrap().to_owned();
        if self.home(id).join("paused").exists() {
            machine.state = MachineState::Paused;
        }
        Some(machine)
    }

    fn all(&self) -> Vec<Machine> {
        let entries = std::fs::read_dir(self.root.join("boxes")).unwrap().flatten();
        entries
            .filter_map(|entry| self.read(entry.file_name().to_str()?))
            .collect()
    }

    fn signal_all(&self, id: &str, signal: Signal) -> usize {
        let found = processes::touching(&[self.home(id)]);
        for process in &found {
            let pid = Pid::from_raw(i32::try_from(process.pid).unwrap()).unwrap();
            // It may have ended by now.
            let _gone = rustix::process::kill_process(pid, signal);
        }
        found.len()
    }

    async fn copy(&self, from: &std::path::Path, to: &std::path::Path) -> Result<()> {
        if !from.join(".").is_dir() {
            return Err(Error::other(format!("nothing to copy: `{}`", from.display())));
        }
        let how = if self.is(Defect::CheckpointShared) { "-al" } else { "-a" };
        let source = from.join(".");
        let status = tokio::process::Command::new("cp")
            .arg(how)
            .arg(source)
            .arg(to)
            .status()
            .await
            .unwrap();
        if status.success() {
            Ok(())
        } else {
            Err(Error::other("copy failed"))
        }
    }

    fn image(&self, checkpoint: &NativeCheckpoint) -> Result<PathBuf> {
        let id = &checkpoint.image_id;
        let path = self.root.join("images").join(id);
        if id.is_empty() || id.contains(['/', '.']) || !path.is_dir() {
            return Err(Error::identity(format!("no such checkpoint: `{id}`")));
        }
        Ok(path)
    }
}

#[async_trait]
impl Backend for Boxes {
    fn scope(&self) -> Scope {
        Scope::default()
    }

    fn admit(&self, requirements: &Requirements) -> Result<()> {
        let refused = requirements
            .isolation
            .is_some_and(|level| level > super::SPEC.isolation_level)
            || requirements.egress.is_some_and(|egress| egress < Egress::Open)
            || requirements
                .persistence
                .is_some_and(|kept| kept > Persistence::Checkpoint);
        if refused && !self.is(Defect::AdmitsAnything) {
            return Err(Error::prerequisite("directories isolate nothing").with_hint("choose another provider"));
        }
        Ok(())
    }

    async fn doctor(&self, _probe: Probe) -> Result<DoctorReport> {
        Ok(DoctorReport {
            checks: vec![Check::new("directory", CheckStatus::Ok, "it can be written")],
        })
    }

    async fn list(&self, _query: ListQuery) -> Result<Inventory> {
        let mut machines = self.all();
        if self.is(Defect::ListForgets) {
            machines.pop();
        }
        Ok(Inventory::complete(machines))
    }

    fn delegated(&self) -> Option<&dyn DelegatedRunBackend> {
        Some(self)
    }

    fn pause(&self) -> Option<&dyn Pause> {
        Some(self)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        Some(self)
    }

    fn files(&self) -> Option<&dyn Files> {
        Some(self)
    }

    fn host_workspace(&self) -> Option<&dyn HostWorkspace> {
        Some(self)
    }
}

#[async_trait]
impl Lifecycle for Boxes {
    async fn create(&self, request: &CreateLease, journal: &mut dyn Journal) -> Result<Machine> {
        let id = format!("plain-{}", random_hex(8));
        let told = if self.is(Defect::JournalForgotten) {
            Ok(())
        } else {
            journal.resource_known(&ResourceId::new(&id)).await
        };
        if !self.is(Defect::JournalIgnored) {
            told?;
        }
        let image = request
            .restore_from
            .as_ref()
            .map(|checkpoint| self.image(checkpoint))
            .transpose()?;
        let home = self.home(&id);
        if self.is(Defect::LabelsLate) {
            std::fs::create_dir_all(home.join("work")).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            self.write_labels(&id, &request.labels);
        } else {
            // What is not complete has a name that no list shows.
            let building = self.root.join(format!(".building-{id}"));
            std::fs::create_dir_all(building.join("work")).unwrap();
            let lines: String = request
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}\n"))
                .collect();
            std::fs::write(building.join("labels"), lines).unwrap();
            std::fs::rename(building, &home).unwrap();
        }
        if let Some(image) = image {
            self.copy(&image, &home.join("work")).await?;
        }
        self.read(&id).ok_or_else(|| Error::other("the box vanished"))
    }

    async fn inspect(&self, binding: &Binding) -> Result<Observed> {
        let ours = |machine: &Machine| machine.lease().as_ref() == Some(&binding.lease);
        let found = match &binding.resource {
            Some(resource) => self.read(&resource.id),
            None if self.is(Defect::LabelLookupMissing) => None,
            None => self.all().into_iter().find(ours),
        };
        let found = if self.is(Defect::AnythingPresent) {
            found.or_else(|| self.all().pop())
        } else {
            found
        };
        Ok(found.map_or(Observed::Absent(Absence::NotFound), |machine| {
            Observed::Present(Box::new(machine))
        }))
    }

    async fn update_labels(&self, machine: &Machine, labels: &Labels) -> Result<()> {
        let mut written = labels.clone();
        if self.is(Defect::LabelsAdded) {
            for (key, value) in self.read(&machine.resource.id).unwrap().labels.iter() {
                if labels.get(key).is_none() {
                    written.set(key, value);
                }
            }
        }
        self.write_labels(&machine.resource.id, &written);
        Ok(())
    }

    async fn destroy(&self, binding: &VerifiedBinding<'_>) -> Result<Outcome> {
        let id = &binding.resource().id;
        if !self.home(id).exists() {
            let error = Error::other(format!("no such box: `{id}`"));
            return if self.is(Defect::DestroyFailsTwice) {
                Err(error)
            } else {
                Ok(Outcome::AlreadyGone)
            };
        }
        while !self.is(Defect::DestroyLeavesProcesses) && self.signal_all(id, Signal::KILL) > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        std::fs::remove_dir_all(self.home(id)).map_err(|cause| Error::other("remove box").with_source(cause))?;
        Ok(Outcome::Deleted)
    }
}

#[async_trait]
impl DelegatedRunBackend for Boxes {
    async fn exec(&self, machine: &Machine, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus> {
        super::run::run(self, &machine.resource.id, request, output).await
    }

    async fn upload(&self, _machine: &Machine, destination: &RemotePath, upload: Upload) -> Result<()> {
        let path = PathBuf::from(destination.as_str());
        let failed = |cause: std::io::Error| Error::remote(format!("upload {destination}")).with_source(cause);
        std::fs::create_dir_all(path.parent().unwrap()).map_err(failed)?;
        let mut content = upload.content;
        let mut bytes = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut content, &mut bytes)
            .await
            .map_err(failed)?;
        std::fs::write(&path, bytes).map_err(failed)?;
        let mode = if self.is(Defect::ModeLost) { 0o644 } else { upload.mode };
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(failed)
    }
}

#[async_trait]
impl Files for Boxes {
    async fn download(&self, _machine: &Machine, source: &RemotePath, destination: ByteWriter<'_>) -> Result<u64> {
        let path = PathBuf::from(source.as_str());
        if !path.is_file() {
            if self.is(Defect::DownloadsAnything) {
                return Ok(0);
            }
            return Err(Error::remote(format!("not a regular file: `{source}`")));
        }
        let content = std::fs::read(path).unwrap();
        tokio::io::AsyncWriteExt::write_all(destination, &content)
            .await
            .unwrap();
        Ok(content.len() as u64)
    }
}

#[async_trait]
impl HostWorkspace for Boxes {
    async fn directory(&self, _machine: &Machine, path: &RemotePath) -> Result<HostDirectory> {
        std::fs::create_dir_all(path.as_str()).unwrap();
        Ok(HostDirectory {
            path: path.as_str().into(),
            owner: None,
        })
    }
}

#[async_trait]
impl Pause for Boxes {
    async fn pause(&self, machine: &Machine) -> Result<()> {
        std::fs::write(self.home(&machine.resource.id).join("paused"), "").unwrap();
        if !self.is(Defect::PauseForgotten) {
            self.signal_all(&machine.resource.id, Signal::STOP);
        }
        Ok(())
    }

    async fn resume(&self, machine: &Machine) -> Result<()> {
        // It need not have been paused.
        let _was = std::fs::remove_file(self.home(&machine.resource.id).join("paused"));
        self.signal_all(&machine.resource.id, Signal::CONT);
        Ok(())
    }
}

#[async_trait]
impl Checkpoints for Boxes {
    fn preferred(&self) -> bool {
        true
    }

    async fn create(&self, machine: &Machine, request: &CreateCheckpoint) -> Result<NativeCheckpoint> {
        let image = self.root.join("images").join(request.id.as_str());
        std::fs::create_dir(&image).unwrap();
        self.copy(&self.home(&machine.resource.id).join("work"), &image).await?;
        Ok(NativeCheckpoint::new("plain", "copy", request.id.as_str()))
    }

    async fn inspect(&self, checkpoint: &NativeCheckpoint) -> Result<CheckpointObserved> {
        Ok(match self.image(checkpoint) {
            Ok(_) => CheckpointObserved::Present(checkpoint.clone()),
            Err(_) => CheckpointObserved::Absent,
        })
    }

    async fn restore(&self, machine: &Machine, checkpoint: &NativeCheckpoint) -> Result<()> {
        let image = self.image(checkpoint)?;
        let work = self.home(&machine.resource.id).join("work");
        if !self.is(Defect::RestoreAdds) {
            std::fs::remove_dir_all(&work).unwrap();
            std::fs::create_dir(&work).unwrap();
        }
        self.copy(&image, &work).await
    }

    async fn delete(&self, checkpoint: &NativeCheckpoint) -> Result<()> {
        let image = self.image(checkpoint)?;
        std::fs::remove_dir_all(image).unwrap();
        Ok(())
    }
}
