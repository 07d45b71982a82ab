//! The process that holds a box: builds it, watches over its time, and takes it down.
//!
//! It runs detached from the client, outside the box, with one thread. When it dies, the kernel ends everything in the
//! box with it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use seccompiler::BpfProgram;

use super::agent::{self, word};
use super::cgroup::{Groups, Limits};
use super::process;
use super::sys::{self, Fork};
use super::wire::{self, AGENT_SOCKET, CONTROL_SOCKET, ControlAsk, Inbox, Received, Reply};
use super::{confine, stage};
use crate::expiry::Expiry;
use crate::plan::{INNER_ID, Plan};
use crate::store::{self, BoxRecord, Layers, RunRecord};
use crate::tree;

/// How long the first process may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest sleep: suspension of the machine moves wall-clock time without waking anybody.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Longest sleep when nothing tells of changes in the box directory.
const UNTOLD_SLEEP: Duration = Duration::from_secs(1);

/// How much sooner than others the processes of a box end when the machine runs out of memory, of 1000.
const EXPENDABLE: i32 = 500;

/// Entry point of the helper: `<word> <box directory>`, or `<word> --probe <scratch directory>`.
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    sys::close_all_but(&[]);
    match arguments {
        [option, scratch] if option == "--probe" => super::probe::main(Path::new(scratch)),
        [directory] => match sys::fork() {
            Ok(Fork::Parent(_)) => ExitCode::SUCCESS,
            Ok(Fork::Child) => supervise(Path::new(directory)),
            Err(_) => ExitCode::FAILURE,
        },
        _ => ExitCode::from(2),
    }
}

fn supervise(directory: &Path) -> ! {
    let _ = rustix::process::setsid();
    sys::ignore_polite_signals();
    // The box directory keeps others out; what is made for the box must be open to its user.
    sys::set_umask(0o022);
    let answer = |reply: &Reply| {
        if let Ok(bytes) = wire::encode(reply) {
            let _ = rustix::io::write(rustix::stdio::stdout(), &bytes);
        }
    };
    match Supervisor::start(directory) {
        Ok(mut supervisor) => {
            answer(&Reply::Done);
            detach_output();
            supervisor.serve();
            sys::exit_now(0)
        }
        Err(error) => {
            answer(&Reply::failed(&error));
            sys::exit_now(1)
        }
    }
}

/// Lets go of the pipe to the client.
pub(super) fn detach_output() {
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = sys::duplicate_to(null.as_fd(), 0);
        let _ = sys::duplicate_to(null.as_fd(), 1);
    }
}

struct Supervisor {
    directory: PathBuf,
    plan: Plan,
    layers: Layers,
    groups: Groups,
    filters: Vec<BpfProgram>,
    agent_listener: UnixListener,
    control_listener: UnixListener,
    /// Tells of changes in the box directory. A user may have only so many of these, and a box must not fail for it.
    watch: Option<OwnedFd>,
    first: Option<First>,
    clients: Vec<Client>,
    expiry: Expiry,
    paused: bool,
    broken: bool,
    ending: bool,
    _lock: File,
}

struct First {
    pid: Pid,
    handle: OwnedFd,
    socket: OwnedFd,
}

struct Client {
    socket: OwnedFd,
    inbox: Inbox,
    holds: bool,
    closed: bool,
}

/// Whether the supervisor goes on.
enum Next {
    Continue,
    /// The client removes the directory.
    End,
    /// Nobody else will remove the directory.
    EndAndRemove,
}

impl Supervisor {
    fn start(directory: &Path) -> Result<Self> {
        let failed = |words: &'static str| move || words.to_owned();
        rustix::process::chdir(directory).or_error(ErrorKind::Other, || format!("enter {}", directory.display()))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open("lock")
            .or_error(ErrorKind::Other, failed("open the lock of the box"))?;
        lock.lock().or_error(ErrorKind::Other, failed("lock the box"))?;
        log_errors()?;
        let here = Path::new(".");
        let missing = |name: &'static str| move || Error::other(format!("the box has no {name}"));
        let plan: Plan = store::load(here, "plan.json")?.ok_or_else(missing("plan.json"))?;
        let layers: Layers = store::load(here, "layers.json")?.ok_or_else(missing("layers.json"))?;
        let filters = confine::filters().or_error(ErrorKind::Other, failed("compile system call filters"))?;
        let agent_listener = listen(AGENT_SOCKET)?;
        let control_listener = listen(CONTROL_SOCKET)?;
        let watch = watch_here()
            .inspect_err(|error| log(&format!("watch the box directory: {error}")))
            .ok();
        // Read after the watch began, so that no removal goes unseen.
        let record: BoxRecord = store::load(here, "box.json")?.ok_or_else(missing("box.json"))?;
        let limits = Limits {
            processes: plan.processes,
            memory_bytes: plan.memory_bytes,
        };
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let groups = Groups::make(&format!("crabbox-{name}"), limits);
        let mut supervisor = Self {
            directory: directory.to_path_buf(),
            expiry: Expiry::new(&record.labels, record.created_at),
            plan,
            layers,
            groups,
            filters,
            agent_listener,
            control_listener,
            watch,
            first: None,
            clients: Vec::new(),
            paused: false,
            broken: false,
            ending: false,
            _lock: lock,
        };
        let built = supervisor.build();
        if built.is_err() {
            supervisor.end_first();
            supervisor.groups.remove();
        }
        built.map(|()| supervisor)
    }

    fn build(&mut self) -> Result<()> {
        // Written first: whoever finds the box after a crash right here can remove its control groups.
        self.record()?;
        stage::separate(&self.plan)?;
        stage::build(&self.plan)?;
        stage::mount_workspace(&self.layers)?;
        self.start_first()
    }

    /// Forks the first process of the box and waits until it is ready.
    fn start_first(&mut self) -> Result<()> {
        let failed = || "start the first process of the box".to_owned();
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .or_error(ErrorKind::Other, failed)?;
        let mut namespaces =
            libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        if self.plan.isolate_network {
            namespaces |= libc::CLONE_NEWNET;
        }
        let fork = sys::fork_into(namespaces)
            .or_error(ErrorKind::Prerequisite, failed)
            .map_err(|error| error.with_hint(super::probe::NAMESPACE_CURE))?;
        let pid = match fork {
            Fork::Child => agent::run(&agent::Setup {
                plan: &self.plan,
                listener: &self.agent_listener,
                supervisor: &theirs,
                filters: &self.filters,
            }),
            Fork::Parent(pid) => pid,
        };
        drop(theirs);
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).or_error(ErrorKind::Other, failed)?;
        self.first = Some(First {
            pid,
            handle,
            socket: ours,
        });
        self.groups.adopt(pid);
        make_expendable(pid);
        let (user, group) = self.plan.outer;
        for (file, outer) in [("gid_map", group), ("uid_map", user)] {
            let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
            stage::kernel_write(Path::new(&path), &format!("{INNER_ID} {outer} 1"))
                .or_error(ErrorKind::Prerequisite, || format!("map the user of the box in {file}"))
                .map_err(|error| error.with_hint(super::probe::NAMESPACE_CURE))?;
        }
        self.tell(word::BEGIN);
        match self.answer_of_first() {
            Some(message) if message.first() == Some(&word::READY) => self.record(),
            Some(message) => {
                let text = String::from_utf8_lossy(message.get(1..).unwrap_or_default()).into_owned();
                Err(Error::prerequisite(format!("build the box: {text}")).with_hint(super::probe::NAMESPACE_CURE))
            }
            None => Err(Error::other("the first process of the box ended at once")),
        }
    }

    /// Writes down which processes and groups the box has.
    fn record(&self) -> Result<()> {
        let record = RunRecord {
            supervisor: process::record_of(rustix::process::getpid().as_raw_nonzero().get()),
            first: self
                .first
                .as_ref()
                .and_then(|first| process::record_of(first.pid.as_raw_nonzero().get())),
            groups: self.groups.paths().to_vec(),
            paused: self.paused,
            broken: self.broken,
            ending: self.ending,
        };
        store::replace(Path::new("."), "run.json", &record)
    }

    fn tell(&self, byte: u8) {
        if let Some(first) = &self.first {
            let _ = rustix::io::write(&first.socket, &[byte]);
        }
    }

    /// The next message of the first process that is not about activity; `None` when it has ended.
    fn answer_of_first(&mut self) -> Option<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let first = self.first.as_ref()?;
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok()?;
            let mut fds = [PollFd::new(&first.socket, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&left)) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return None,
            }
            let mut buffer = [0; 1024];
            match rustix::io::read(&first.socket, &mut buffer) {
                Ok(length) if length > 0 => {
                    if !self.expiry.note(&buffer[..length]) {
                        return Some(buffer[..length].to_vec());
                    }
                }
                _ => return None,
            }
        }
    }

    fn serve(&mut self) {
        loop {
            match self.turn() {
                Next::Continue => {}
                Next::End => break,
                Next::EndAndRemove => {
                    self.take_down();
                    let gone = self.directory.with_file_name(format!(
                        ".gone-{}",
                        self.directory.file_name().unwrap_or_default().to_string_lossy()
                    ));
                    if fs::rename(&self.directory, &gone).is_ok()
                        && let Err(error) = tree::remove(&gone)
                    {
                        log(&format!("remove the box: {error}"));
                    }
                    break;
                }
            }
        }
    }

    fn turn(&mut self) -> Next {
        let left = self.expiry.remaining(Timestamp::now());
        if left.is_zero() {
            log("the time of the box is over");
            return Next::EndAndRemove;
        }
        let longest = if self.watch.is_some() {
            LONGEST_SLEEP
        } else {
            UNTOLD_SLEEP
        };
        let timeout = Timespec::try_from(left.min(longest)).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = vec![PollFd::new(&self.control_listener, PollFlags::IN)];
        if let Some(first) = &self.first {
            fds.push(PollFd::new(&first.socket, PollFlags::IN));
            fds.push(PollFd::new(&first.handle, PollFlags::IN));
        }
        let fixed = fds.len();
        fds.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(&client.socket, PollFlags::IN)),
        );
        fds.extend(self.watch.iter().map(|watch| PollFd::new(watch, PollFlags::IN)));
        if let Err(error) = rustix::event::poll(&mut fds, Some(&timeout))
            && error != rustix::io::Errno::INTR
        {
            log(&format!("wait for events: {error}"));
            return Next::EndAndRemove;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let is_ready = |index: usize| ready.get(index).copied().unwrap_or_default();
        self.drain_watch();
        if !self.reload() {
            return Next::EndAndRemove;
        }
        if fixed == 3 && is_ready(1) {
            self.hear_first();
        }
        if fixed == 3 && is_ready(2) {
            self.lose_first();
        }
        for index in 0..self.clients.len() {
            if is_ready(fixed + index) {
                match self.hear_client(index) {
                    Next::Continue => {}
                    other => return other,
                }
            }
        }
        self.forget_closed();
        if is_ready(0) {
            self.accept();
        }
        Next::Continue
    }

    fn drain_watch(&self) {
        let Some(watch) = &self.watch else { return };
        let mut buffer = [0; 4096];
        while matches!(rustix::io::read(watch, &mut buffer), Ok(length) if length > 0) {}
    }

    /// Reads the labels again; whether the box is still there.
    fn reload(&mut self) -> bool {
        match store::load::<BoxRecord>(&self.directory, "box.json") {
            Ok(Some(record)) => self.expiry.read(&record.labels, record.created_at),
            Ok(None) => return false,
            // Damaged from outside: the times that were known still hold.
            Err(_) => {}
        }
        true
    }

    fn hear_first(&mut self) {
        let Some(first) = &self.first else { return };
        let mut buffer = [0; 64];
        if let Ok(length) = rustix::io::read(&first.socket, &mut buffer) {
            self.expiry.note(&buffer[..length]);
        }
    }

    /// The first process has ended although nobody asked for it.
    fn lose_first(&mut self) {
        log("the first process of the box has ended");
        self.end_first();
        self.broken = true;
        if let Err(error) = self.record() {
            log(&error.to_string());
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.control_listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    socket: stream.into(),
                    inbox: Inbox::default(),
                    holds: false,
                    closed: false,
                });
            }
        }
    }

    fn hear_client(&mut self, index: usize) -> Next {
        let Some(client) = self.clients.get_mut(index) else {
            return Next::Continue;
        };
        let ask = match client.inbox.receive(client.socket.as_fd()) {
            Ok(Received::Nothing) => return Next::Continue,
            Ok(Received::Bytes) => match client.inbox.next::<ControlAsk>() {
                Ok(Some(ask)) => ask,
                Ok(None) => return Next::Continue,
                Err(_) => {
                    client.closed = true;
                    return Next::Continue;
                }
            },
            Ok(Received::Closed) | Err(_) => {
                client.closed = true;
                return Next::Continue;
            }
        };
        let stops = matches!(ask, ControlAsk::Stop);
        let reply = self.handle(index, ask).unwrap_or_else(|error| Reply::failed(&error));
        if let Some(client) = self.clients.get(index) {
            let _ = wire::send(&client.socket, &reply, &[]);
        }
        if stops { Next::End } else { Next::Continue }
    }

    fn handle(&mut self, index: usize, ask: ControlAsk) -> Result<Reply> {
        match ask {
            ControlAsk::Stop => {
                self.take_down();
                return Ok(Reply::Done);
            }
            ControlAsk::Pause => {
                self.paused = true;
                self.settle_pause();
                self.record()?;
            }
            ControlAsk::Resume => {
                self.paused = false;
                self.settle_pause();
                self.record()?;
            }
            ControlAsk::Hold => {
                if let Some(client) = self.clients.get_mut(index) {
                    client.holds = true;
                }
                self.settle_pause();
            }
            ControlAsk::Freeze { layer } => return self.freeze(&layer),
            ControlAsk::Restart { layers, checkpoint } => {
                let next = self.layers.next(layers, checkpoint);
                make_upper(&next, &self.plan)?;
                self.replace_layers(next)?;
            }
            ControlAsk::Replace { directory } => self.replace_layers(Layers {
                lower: Vec::new(),
                upper: directory,
                checkpoint: None,
            })?,
        }
        Ok(Reply::Done)
    }

    fn forget_closed(&mut self) {
        let holders = self.clients.iter().filter(|client| client.holds).count();
        self.clients.retain(|client| !client.closed);
        if self.clients.iter().filter(|client| client.holds).count() != holders {
            self.settle_pause();
        }
    }

    /// Stops or continues the processes of the box, as those who asked want it.
    fn settle_pause(&self) {
        let stop = self.paused || self.clients.iter().any(|client| client.holds && !client.closed);
        if !self.groups.freeze(stop) {
            self.tell(if stop { word::STOP } else { word::CONTINUE });
        }
    }

    /// Makes what the box wrote a read-only layer under a new, empty one.
    fn freeze(&mut self, layer: &str) -> Result<Reply> {
        if self.paused {
            return Ok(Reply::Busy);
        }
        self.tell(word::QUIESCE);
        if self.answer_of_first().is_some() {
            return Ok(Reply::Busy);
        }
        self.end_first();
        let outcome = self.move_upper(layer).and_then(|()| self.start_first());
        if outcome.is_err() {
            self.broken = true;
            self.record()?;
        }
        outcome.map(|()| Reply::Done)
    }

    fn move_upper(&mut self, layer: &str) -> Result<()> {
        let failed = || "make a layer of the workspace".to_owned();
        stage::unmount_workspace()?;
        let place = Path::new("../../layers").join(layer);
        store::make_private(&place)?;
        let mut lower = vec![layer.to_owned()];
        lower.extend(self.layers.lower.iter().cloned());
        let next = self.layers.next(lower, self.layers.checkpoint.clone());
        make_upper(&next, &self.plan)?;
        // The record names the layer before it is there: whoever collects unused layers must not take it.
        let previous = std::mem::replace(&mut self.layers, next);
        store::replace(Path::new("."), "layers.json", &self.layers)?;
        fs::rename(&previous.upper, place.join("tree")).or_error(ErrorKind::Other, failed)?;
        let _ = tree::remove(Path::new(&format!("{}.work", previous.upper)));
        stage::mount_workspace(&self.layers)
    }

    /// Ends everything in the box and starts again with another workspace.
    fn replace_layers(&mut self, next: Layers) -> Result<()> {
        self.end_first();
        stage::unmount_workspace()?;
        let previous = std::mem::replace(&mut self.layers, next);
        store::replace(Path::new("."), "layers.json", &self.layers)?;
        stage::mount_workspace(&self.layers)?;
        self.start_first()?;
        self.broken = false;
        self.paused = false;
        for name in [previous.upper.clone(), format!("{}.work", previous.upper)] {
            if let Err(error) = tree::remove(Path::new(&name)) {
                log(&format!("remove {name}: {error}"));
            }
        }
        self.record()
    }

    /// Ends every process of the box and waits for it: the kernel ends them all with the first.
    fn end_first(&mut self) {
        if let Some(first) = self.first.take() {
            let _ = self.groups.freeze(false);
            let _ = rustix::process::pidfd_send_signal(&first.handle, Signal::KILL);
            let _ = rustix::process::waitpid(Some(first.pid), WaitOptions::empty());
        }
        self.expiry.note(&[word::ACTIVE, 0, 0, 0, 0]);
    }

    fn take_down(&mut self) {
        // Written first, so that whoever loses a command now learns why. It is ended all the same when that fails.
        self.ending = true;
        let _ = self.record();
        self.end_first();
        self.groups.remove();
        // Only in the mounts of this process; without it the directory could not be removed from here.
        let _ = rustix::mount::unmount(stage::ROOT, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Watches the current directory.
fn watch_here() -> rustix::io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let changes = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVE_SELF;
    inotify::add_watch(&watch, ".", changes)?;
    Ok(watch)
}

/// Makes the kernel prefer a process and all it starts when memory runs out. Best effort.
fn make_expendable(pid: Pid) {
    let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
    let present = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    if present.is_some_and(|score: i32| score < EXPENDABLE) {
        let _ = stage::kernel_write(Path::new(&path), &EXPENDABLE.to_string());
    }
}

fn listen(name: &str) -> Result<UnixListener> {
    let failed = || format!("listen on the {name} socket of the box");
    let listener = UnixListener::bind(name).or_error(ErrorKind::Other, failed)?;
    listener.set_nonblocking(true).or_error(ErrorKind::Other, failed)?;
    Ok(listener)
}

/// Makes the directories that an overlay writes to.
fn make_upper(layers: &Layers, plan: &Plan) -> Result<()> {
    for name in [layers.upper.clone(), format!("{}.work", layers.upper)] {
        crate::boxes::make_owned(Path::new(&name), plan)?;
    }
    Ok(())
}

/// Sends what libraries complain about into a file of the box.
fn log_errors() -> Result<()> {
    let failed = || "open the log of the box".to_owned();
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open("supervisor.log")
        .or_error(ErrorKind::Other, failed)?;
    sys::duplicate_to(file.as_fd(), 2).or_error(ErrorKind::Other, failed)
}

fn log(text: &str) {
    let _ = writeln!(std::io::stderr(), "{} {text}", Timestamp::now());
}
