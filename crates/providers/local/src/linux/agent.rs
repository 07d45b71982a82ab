//! The first process of a box: runs commands, opens files, reaps what is left behind.
//!
//! It has the rights of the box and no more, sees what the box sees, and cannot be traced or signalled by it. Clients
//! reach it through a socket that lies outside.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::UnshareFlags;
use seccompiler::BpfProgram;

use super::command::{self, Prepared, Report};
use super::files::{self, PendingFile};
use super::wire::{self, AgentAsk, Inbox, Received, Reply};
use super::{confine, stage, sys};
use crate::plan::{INNER_ID, Plan};

/// What supervisor and first process say to each other, one byte each; a count follows `ACTIVE`.
pub(super) mod word {
    /// To the first process: begin.
    pub(crate) const BEGIN: u8 = b'B';
    /// From it: everything is ready.
    pub(crate) const READY: u8 = b'Y';
    /// From it: this many commands run now, as four bytes.
    pub(crate) const ACTIVE: u8 = b'A';
    /// To it: end if nothing else runs.
    pub(crate) const QUIESCE: u8 = b'Q';
    /// From it: something runs.
    pub(crate) const BUSY: u8 = b'N';
    /// To it: stop everything where it is.
    pub(crate) const STOP: u8 = b'S';
    /// To it: let everything go on.
    pub(crate) const CONTINUE: u8 = b'R';
}

/// What the first process needs of its supervisor.
#[derive(Debug)]
pub(super) struct Setup<'a> {
    pub(super) plan: &'a Plan,
    pub(super) listener: &'a UnixListener,
    pub(super) supervisor: &'a OwnedFd,
    pub(super) filters: &'a [BpfProgram],
}

/// Runs as the first process, just forked into its namespaces.
pub(super) fn run(setup: &Setup<'_>) -> ! {
    // The client waits until nobody holds the pipe on which the supervisor reports.
    super::supervisor::detach_output();
    sys::close_all_but(&[setup.listener.as_fd(), setup.supervisor.as_fd()]);
    let mut byte = [0];
    if !matches!(rustix::io::read(setup.supervisor, &mut byte), Ok(1)) || byte[0] != word::BEGIN {
        sys::exit_now(1);
    }
    if let Err(error) = enter(setup) {
        let mut text = error.to_string().into_bytes();
        text.insert(0, b'E');
        let _ = rustix::io::write(setup.supervisor, &text);
        sys::exit_now(1);
    }
    let Ok(signals) = sys::child_signals() else {
        sys::exit_now(1)
    };
    let _ = rustix::io::write(setup.supervisor, &[word::READY]);
    let mut agent = Agent {
        setup,
        signals,
        connections: Vec::new(),
        reported: 0,
    };
    loop {
        if agent.turn().is_err() {
            sys::exit_now(1);
        }
    }
}

/// Takes the place that was prepared and gives up everything else.
fn enter(setup: &Setup<'_>) -> Result<()> {
    let failed = |words: &'static str| move || words.to_owned();
    // Groups of control groups are a courtesy: without a namespace their names show, and nothing more.
    let _ = stage::unshare(UnshareFlags::NEWCGROUP);
    let _ = rustix::system::sethostname(setup.plan.hostname.as_bytes());
    if setup.plan.isolate_network {
        sys::loopback_up().or_error(ErrorKind::Other, failed("switch loopback on"))?;
    }
    rustix::mount::mount_bind_recursive(stage::ROOT, stage::ROOT)
        .or_error(ErrorKind::Other, failed("take the root"))?;
    rustix::process::chdir(stage::ROOT).or_error(ErrorKind::Other, failed("enter the root"))?;
    rustix::mount::mount(
        "proc",
        "proc",
        "proc",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .or_error(ErrorKind::Prerequisite, failed("mount /proc"))?;
    confine::limit_counts(Path::new("proc"));
    rustix::process::pivot_root(".", ".").or_error(ErrorKind::Other, failed("change the root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).or_error(ErrorKind::Other, failed("leave the host's root"))?;
    rustix::process::chdir("/").or_error(ErrorKind::Other, failed("enter the root"))?;
    // Where groups could not be dropped, the kernel forbade it for the whole user namespace.
    let _ = rustix::thread::set_thread_groups(&[]);
    let group = rustix::process::Gid::from_raw(INNER_ID);
    let user = rustix::process::Uid::from_raw(INNER_ID);
    rustix::thread::set_thread_res_gid(group, group, group).or_error(ErrorKind::Other, failed("change the group"))?;
    rustix::thread::set_thread_res_uid(user, user, user).or_error(ErrorKind::Other, failed("change the user"))?;
    let _ = rustix::process::setsid();
    sys::set_umask(0o022);
    confine::drop_capabilities().or_error(ErrorKind::Other, failed("drop capabilities"))?;
    // Both are reset by a change of user, so they come after it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .or_error(ErrorKind::Other, failed("bind to the supervisor"))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .or_error(ErrorKind::Other, failed("close the first process to tracing"))?;
    confine::limit_resources(setup.plan.processes).or_error(ErrorKind::Other, failed("limit resources"))?;
    if let Err(error) = confine::restrict_files() {
        return Err(Error::other("apply Landlock").with_source(error));
    }
    confine::filter_calls(setup.filters).or_error(ErrorKind::Prerequisite, failed("filter system calls"))
}

struct Agent<'a> {
    setup: &'a Setup<'a>,
    signals: OwnedFd,
    connections: Vec<Connection>,
    reported: u32,
}

struct Connection {
    socket: OwnedFd,
    inbox: Inbox,
    work: Work,
    closed: bool,
}

enum Work {
    Nothing,
    Command(Running),
    File(PendingFile),
}

struct Running {
    keeper: Pid,
    reports: OwnedFd,
    workdir: String,
    group: Option<Pid>,
    grace: Duration,
    cancelled: Option<Instant>,
    killed: bool,
}

impl Agent<'_> {
    /// Waits for the next event and handles it.
    fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        if ready.signals {
            self.reap();
        }
        for (index, (socket, reports)) in ready.connections.into_iter().enumerate() {
            if socket {
                self.hear(index);
            }
            if reports {
                self.note(index);
            }
        }
        if ready.listener {
            self.accept();
        }
        self.force_the_late();
        self.connections
            .retain(|connection| !connection.closed || matches!(connection.work, Work::Command(_)));
        self.report_activity();
        // Last, so that a client which closed its connection before it asked for this counts as gone.
        if ready.supervisor {
            self.obey();
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(self.setup.supervisor, PollFlags::IN),
            PollFd::new(self.setup.listener, PollFlags::IN),
        ];
        for connection in &self.connections {
            // A closed socket stays readable, so it is asked no more.
            let events = if connection.closed {
                PollFlags::empty()
            } else {
                PollFlags::IN
            };
            fds.push(PollFd::new(&connection.socket, events));
            if let Work::Command(running) = &connection.work {
                fds.push(PollFd::new(&running.reports, PollFlags::IN));
            }
        }
        let timeout = self
            .connections
            .iter()
            .filter_map(|connection| match &connection.work {
                Work::Command(running) if !running.killed => running.cancelled,
                _ => None,
            })
            .min()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|duration| Timespec::try_from(duration).ok());
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut happened = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || happened.next().unwrap_or_default();
        let (signals, supervisor, listener) = (next(), next(), next());
        let connections = self
            .connections
            .iter()
            .map(|connection| {
                let socket = next() && !connection.closed;
                let reports = matches!(connection.work, Work::Command(_)) && next();
                (socket, reports)
            })
            .collect();
        Ok(Ready {
            signals,
            supervisor,
            listener,
            connections,
        })
    }

    fn reap(&self) {
        let mut buffer = [0; 512];
        while matches!(rustix::io::read(&self.signals, &mut buffer), Ok(length) if length > 0) {}
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }

    fn obey(&self) {
        let mut byte = [0];
        match rustix::io::read(self.setup.supervisor, &mut byte) {
            Ok(1) => {}
            // The supervisor is gone, and with it the box.
            _ => sys::exit_now(0),
        }
        match byte[0] {
            word::STOP => sys::signal_everyone(libc::SIGSTOP),
            word::CONTINUE => sys::signal_everyone(libc::SIGCONT),
            word::QUIESCE => {
                // The keeper of a command that just ended takes a moment to go.
                for _ in 0..20 {
                    self.reap();
                    if !self.connections.is_empty() {
                        break;
                    }
                    if command::processes().iter().all(|(pid, _)| *pid == 1) {
                        sys::exit_now(0);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                let _ = rustix::io::write(self.setup.supervisor, &[word::BUSY]);
            }
            _ => {}
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.setup.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.connections.push(Connection {
                    socket: stream.into(),
                    inbox: Inbox::default(),
                    work: Work::Nothing,
                    closed: false,
                });
            }
        }
    }

    /// Reads what a client says.
    fn hear(&mut self, index: usize) {
        let environment = &self.setup.plan.environment;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        match connection.inbox.receive(connection.socket.as_fd()) {
            Ok(Received::Bytes) => loop {
                match connection.inbox.next() {
                    Ok(Some(ask)) => connection.handle(ask, environment),
                    Ok(None) => break,
                    Err(_) => {
                        connection.close();
                        break;
                    }
                }
            },
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) | Err(_) => connection.close(),
        }
    }

    /// Reads what a keeper says.
    fn note(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let Work::Command(running) = &mut connection.work else {
            return;
        };
        let reply = match Report::read(&running.reports) {
            Some(Report::Started(pid)) => {
                running.group = Pid::from_raw(pid);
                if running.cancelled.is_some() {
                    running.ask_to_end();
                }
                return;
            }
            Some(Report::NoDirectory(errno)) => Reply::Refused {
                message: format!(
                    "enter the working directory {}: {}",
                    running.workdir,
                    io::Error::from_raw_os_error(errno)
                ),
                hint: Some("sync the workspace first, or choose a directory that exists in the box".to_owned()),
            },
            Some(Report::Ended(status)) => Reply::Exited { status },
            // Something in the box killed the keeper, which is as if it had killed the command.
            None => Reply::Exited { status: libc::SIGKILL },
        };
        if running.cancelled.is_some() {
            command::kill_below(running.keeper);
        }
        let _ = rustix::process::kill_process(running.keeper, Signal::KILL);
        connection.work = Work::Nothing;
        connection.answer(&reply, None);
    }

    /// Ends by force what did not end politely in time.
    fn force_the_late(&mut self) {
        let now = Instant::now();
        for connection in &mut self.connections {
            if let Work::Command(running) = &mut connection.work
                && running.cancelled.is_some_and(|deadline| deadline <= now)
                && !running.killed
            {
                running.killed = true;
                command::kill_below(running.keeper);
                // The box may have stopped the keeper, which then never reports what became of its command.
                let _ = rustix::process::kill_process(running.keeper, Signal::KILL);
            }
        }
    }

    /// Tells the supervisor how many commands run, for it to know when the box is idle.
    fn report_activity(&mut self) {
        let running = self
            .connections
            .iter()
            .filter(|connection| matches!(connection.work, Work::Command(_)))
            .count();
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        if running != self.reported {
            let mut message = vec![word::ACTIVE];
            message.extend(running.to_le_bytes());
            if rustix::io::write(self.setup.supervisor, &message).is_ok() {
                self.reported = running;
            }
        }
    }
}

struct Ready {
    signals: bool,
    supervisor: bool,
    listener: bool,
    connections: Vec<(bool, bool)>,
}

impl Running {
    fn ask_to_end(&self) {
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, Signal::TERM);
        }
    }

    fn cancel(&mut self) {
        if self.cancelled.is_none() {
            self.cancelled = Some(Instant::now() + self.grace);
            self.ask_to_end();
        }
    }
}

impl Connection {
    fn handle(&mut self, ask: AgentAsk, environment: &BTreeMap<String, String>) {
        match ask {
            AgentAsk::Exec {
                argv,
                workdir,
                env,
                grace_ms,
            } => {
                let mut environment = environment.clone();
                environment.extend(env);
                if let Err(message) = self.start(argv, workdir, &environment, Duration::from_millis(grace_ms)) {
                    self.answer(&Reply::Refused { message, hint: None }, None);
                }
            }
            AgentAsk::Cancel => {
                if let Work::Command(running) = &mut self.work {
                    running.cancel();
                }
            }
            AgentAsk::Read { path } => match files::open_for_reading(&path) {
                Ok(file) => self.answer(&Reply::Done, Some(&file)),
                Err(error) => self.answer(&Reply::refused(&error), None),
            },
            AgentAsk::Write { path, mode } => match PendingFile::new(&path, mode) {
                Ok((pending, file)) => {
                    self.work = Work::File(pending);
                    self.answer(&Reply::Done, Some(&file));
                }
                Err(error) => self.answer(&Reply::refused(&error), None),
            },
            AgentAsk::Commit => {
                let reply = match std::mem::replace(&mut self.work, Work::Nothing) {
                    Work::File(pending) => match pending.commit() {
                        Ok(()) => Reply::Done,
                        Err(error) => Reply::refused(&error),
                    },
                    other => {
                        self.work = other;
                        Reply::Failed {
                            message: "no file to commit".to_owned(),
                            hint: None,
                        }
                    }
                };
                self.answer(&reply, None);
            }
            AgentAsk::Directory { root, below } => match files::open_directory(&root, &below) {
                Ok(directory) => self.answer(&Reply::Done, Some(&directory)),
                Err(error) => self.answer(&Reply::refused(&error), None),
            },
        }
    }

    fn start(
        &mut self,
        argv: Vec<String>,
        workdir: Option<String>,
        environment: &BTreeMap<String, String>,
        grace: Duration,
    ) -> Result<(), String> {
        let streams: [OwnedFd; 3] = self
            .inbox
            .take_descriptors()
            .try_into()
            .map_err(|_| "a command needs three streams".to_owned())?;
        if !matches!(self.work, Work::Nothing) {
            return Err("a connection runs one command at a time".to_owned());
        }
        let workdir = workdir.unwrap_or_else(|| crate::HOME.to_owned());
        let prepared = Prepared::new(argv, workdir.clone(), environment)?;
        let (keeper, reports) = prepared.start(&streams).map_err(|error| match error.raw_os_error() {
            Some(libc::EAGAIN) => "the box has as many processes as it may have".to_owned(),
            _ => format!("start a process in the box: {error}"),
        })?;
        self.work = Work::Command(Running {
            keeper,
            reports,
            workdir,
            group: None,
            grace,
            cancelled: None,
            killed: false,
        });
        Ok(())
    }

    /// Sends an answer. A client that does not read its one short answer has gone.
    fn answer(&mut self, reply: &Reply, descriptor: Option<&OwnedFd>) {
        let descriptors: Vec<_> = descriptor.iter().map(|one| one.as_fd()).collect();
        if !self.closed && wire::send(&self.socket, reply, &descriptors).is_err() {
            self.close();
        }
    }

    /// The client has gone: its command ends, its unfinished file vanishes.
    fn close(&mut self) {
        self.closed = true;
        match &mut self.work {
            Work::Command(running) => running.cancel(),
            Work::File(_) => self.work = Work::Nothing,
            Work::Nothing => {}
        }
    }
}
