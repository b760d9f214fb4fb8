//! What a reader gives up before it reads anything.

use std::io;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::vocabulary::split::STACK_BYTES;

/// The most files that it may have open.
const FILES_MAX: u64 = 32;

/// Limits a resource to `most`, or to less where whoever started this allows only that.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let allowed = getrlimit(resource).maximum;
    let most = Some(allowed.map_or(most, |allowed| allowed.min(most)));
    let both = Rlimit {
        current: most,
        maximum: most,
    };
    Ok(setrlimit(resource, both)?)
}

/// Limits files, and memory to `memory_bytes` more than there is now, and `mapped_bytes` more of addresses; leaves
/// nothing on the disk when it breaks.
pub(super) fn limits(memory_bytes: u64, mapped_bytes: u64) -> io::Result<()> {
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, FILES_MAX)?;
    limit(Resource::Fsize, 0)?;
    let more = memory_bytes.saturating_add(STACK_BYTES as u64);
    let (size, data) = memory_now();
    limit(Resource::Data, data.saturating_add(more))?;
    // Twice, because allocators reserve addresses that they never use.
    let addresses = more.saturating_mul(2).saturating_add(mapped_bytes);
    limit(Resource::As, size.saturating_add(addresses))
}

/// The bytes of addresses that this process has, and of those that it may write to.
#[cfg(target_os = "linux")]
fn memory_now() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        kib.unwrap_or(0_u64).saturating_mul(1_024)
    };
    (bytes("VmSize:"), bytes("VmData:"))
}

/// Elsewhere nothing tells: what a program starts with is taken to be less than this.
#[cfg(not(target_os = "linux"))]
fn memory_now() -> (u64, u64) {
    (8 << 30, 1 << 30)
}

/// Lets no new process or thread begin.
pub(super) fn no_more_processes() -> io::Result<()> {
    limit(Resource::Nproc, 0)
}

/// Takes all files away but one that may be read, and the network; where the kernel can.
#[cfg(target_os = "linux")]
pub(super) fn files(readable: Option<&Path>) -> io::Result<()> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr,
        RulesetCreatedAttr, Scope,
    };

    let other = |error: landlock::RulesetError| io::Error::other(error);
    let abi = ABI::V6;
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(abi)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .map_err(other)?;
    // A file that is missing is said to be missing by whoever opens it.
    if let Some(file) = readable.and_then(|path| PathFd::new(path).ok()) {
        let rule = PathBeneath::new(file, AccessFs::ReadFile);
        ruleset = ruleset.add_rule(rule).map_err(other)?;
    }
    ruleset.restrict_self().map_err(other)?;
    Ok(())
}

/// Elsewhere files are not taken away.
#[cfg(not(target_os = "linux"))]
pub(super) fn files(_readable: Option<&Path>) -> io::Result<()> {
    Ok(())
}

/// What reading, computing and ending take, and a thread that has just begun; all else is refused by the kernel.
#[cfg(target_os = "linux")]
const CALLS: [&str; 39] = [
    "brk",
    "clock_getres",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "exit",
    "exit_group",
    "fcntl",
    "fstat",
    "futex",
    "getpid",
    "getrandom",
    "gettid",
    "gettimeofday",
    "lseek",
    "madvise",
    "membarrier",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "newfstatat",
    "openat",
    "ppoll",
    "pread64",
    "read",
    "readv",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "set_robust_list",
    "sigaltstack",
    "statx",
    "write",
];

/// The same calls as older programs make them, where the processor's family has such.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
const OLDER_CALLS: [&str; 5] = ["access", "open", "poll", "stat", "time"];
#[cfg(all(target_os = "linux", not(target_arch = "x86_64")))]
const OLDER_CALLS: [&str; 0] = [];

/// Takes all calls of the system away but a few, from every thread of this process.
#[cfg(target_os = "linux")]
pub(super) fn calls() -> io::Result<()> {
    use seccompiler::TargetArch;

    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(());
    };
    let names = CALLS.iter().chain(&OLDER_CALLS);
    let filter: Vec<_> = names
        .map(|name| serde_json::json!({"syscall": name}))
        .collect();
    // 1 is EPERM.
    let filters = serde_json::json!({"reader": {
        "mismatch_action": {"errno": 1}, "match_action": "allow", "filter": filter,
    }});
    let filters = seccompiler::compile_from_json(filters.to_string().as_bytes(), arch);
    let filters = filters.map_err(io::Error::other)?;
    let filter = filters.get("reader").map(Vec::as_slice).unwrap_or_default();
    seccompiler::apply_filter_all_threads(filter).map_err(io::Error::other)
}

/// Elsewhere no call is taken away.
#[cfg(not(target_os = "linux"))]
pub(super) fn calls() -> io::Result<()> {
    Ok(())
}
