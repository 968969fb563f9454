use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for another one: pids are used again, start times are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Process id.
    pub(crate) pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub(crate) start: u64,
}

impl Identity {
    /// The process that has this pid now; `None` when there is none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::with_state(pid).map(|(identity, _)| identity)
    }

    fn with_state(pid: i32) -> Option<(Self, String)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, also parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?.to_owned();
        let start = fields.nth(18)?.parse().ok()?;
        Some((Self { pid, start }, state))
    }

    /// Whether it still runs: a zombie does not.
    pub(crate) fn lives(self) -> bool {
        Self::with_state(self.pid).is_some_and(|(now, state)| now == self && state != "Z")
    }

    /// This process.
    pub(crate) fn own() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// A descriptor that is readable when the process has ended; `None` when it is gone already.
    /// The start time is compared after the descriptor is held, so it cannot change in between.
    pub(crate) fn open(self) -> Option<std::os::fd::OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        (Self::of(self.pid)? == self).then_some(fd)
    }

    /// Signals this process only. `false` when it is gone.
    pub(crate) fn signal(self, signal: Signal) -> bool {
        self.open().is_some_and(|fd| pidfd_send_signal(fd, signal).is_ok())
    }

    /// Kills the process and its group. `false` when it is gone.
    pub(crate) fn kill_group(self) -> bool {
        let Some(fd) = self.open() else { return false };
        // While we hold the descriptor of a process that was there, its group is its own.
        if let Some(pid) = Pid::from_raw(self.pid)
            && let Err(error) = kill_process_group(pid, Signal::KILL)
        {
            tracing::debug!(pid = self.pid, %error, "no process group to kill");
        }
        pidfd_send_signal(fd, Signal::KILL).is_ok()
    }
}
