//! The reader's own side: one request after the other, until whoever asks is gone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::stdio::{stdin, stdout};

use super::wire::{self, Reply, Request, Step};
use super::{ROLE_VARIABLE, Role, confine};
use crate::backend;
use crate::gguf::Header;
use crate::grammar::{Grammar, GrammarCompiler, GrammarError};
use crate::packed::Packed;
use crate::prompt::PromptReader;
use crate::vocabulary::split::on_deep_stack;
use crate::vocabulary::{Encoder, Vocabulary};

/// The longest reason that is told, in characters.
const REASON_CHARS_MAX: usize = 300;

/// Whether this process was started as a reader.
pub fn is_reader() -> bool {
    std::env::var_os(ROLE_VARIABLE).is_some()
}

/// Runs a model for a few tokens, or says why it does not run.
pub(crate) type Trial = fn(&Path) -> Result<(), String>;

/// Serves as a reader until the process that started this one closes its standard input; `trial` is for the role that runs
/// models.
pub(crate) fn serve(trial: Trial) -> ExitCode {
    let role = std::env::var(ROLE_VARIABLE).ok();
    let role = [Role::Prompts, Role::Grammars, Role::Trial]
        .into_iter()
        .find(|known| role.as_deref() == Some(known.name()));
    let Some(role) = role else {
        eprintln!("hearth: a reader is started by a node, not by hand");
        return ExitCode::from(2);
    };
    match begin(role, trial) {
        Some(()) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

/// Gives up what a reader does not need, then reads. Nothing when it cannot go on.
fn begin(role: Role, trial: Trial) -> Option<()> {
    if role != Role::Grammars {
        // It looks at the machine, which is out of sight afterwards. If it fails, opening fails.
        drop(backend::backend());
    }
    let is_trial = role == Role::Trial;
    if !is_trial {
        confine::limits(role.memory_bytes(), 0).ok()?;
    }
    write_all(wire::PREAMBLE)?;
    let first = read_frame()?;
    let first = Packed(first);
    let path = match postcard::from_bytes(&first.0).ok()? {
        Request::Open { path, .. } | Request::Try { path } => {
            Some(PathBuf::from(OsStr::from_bytes(&path.0)))
        }
        _ => None,
    };
    if is_trial {
        // Weights are mapped, and some are rewritten for this processor besides.
        let weights = std::fs::metadata(path.as_deref()?).ok()?.len();
        let memory_bytes = role.memory_bytes().saturating_add(weights);
        confine::limits(memory_bytes, weights).ok()?;
    }
    // Kernels without such means are no reason to read nothing: the other limits hold.
    drop(confine::files(path.as_deref()));
    let watch = std::thread::Builder::new().name("hearth-watch".to_owned());
    watch.spawn(end_with_the_asker).ok()?;
    on_deep_stack(|| read(&first.0, trial)).ok()?
}

/// Ends the process, whatever it does, as soon as nobody can ask any more.
fn end_with_the_asker() {
    let input = stdin();
    loop {
        // Nothing is asked for, so it returns only when the other end is closed.
        let mut fds = [PollFd::new(&input, PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) if !fds[0].revents().is_empty() => std::process::exit(0),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Reads what the first request says, then what the others ask.
fn read(first: &[u8], trial: Trial) -> Option<()> {
    drop(confine::no_more_processes());
    drop(confine::calls());
    match postcard::from_bytes(first).ok()? {
        Request::Open { path, told } => read_prompts(Path::new(OsStr::from_bytes(&path.0)), told),
        Request::Words(parts) => follow_grammars(parts.into_owned().try_into().ok()?),
        Request::Try { path } => {
            let tried = trial(Path::new(OsStr::from_bytes(&path.0)));
            reply(&Reply::Tried(tried.map_err(|reason| bounded(&reason))))
        }
        _ => None,
    }
}

fn read_prompts(path: &Path, told: bool) -> Option<()> {
    let reader = match open(path) {
        Ok(reader) => reader,
        Err(reason) => return reply(&Reply::Opened(Err(reason))),
    };
    let parts = told.then(|| reader.vocabulary().parts().clone());
    reply(&Reply::Opened(Ok(parts)))?;
    loop {
        let frame = read_frame()?;
        let Request::Prompt { input, now_s } = postcard::from_bytes(&frame).ok()? else {
            return None;
        };
        let input = serde_json::from_slice(&input.0).ok()?;
        reply(&Reply::Ids(reader.ids(&input, now_s)))?;
    }
}

fn open(path: &Path) -> Result<PromptReader, String> {
    let told = |error: &dyn std::fmt::Display| bounded(&error.to_string());
    Header::of_file(path).map_err(|error| told(&error))?;
    let encoder = Encoder::load(path).map_err(|error| told(&error))?;
    PromptReader::new(encoder).map_err(|error| told(&error))
}

fn bounded(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}

fn follow_grammars(vocabulary: Vocabulary) -> Option<()> {
    let compiler = match GrammarCompiler::new(&vocabulary) {
        Ok(compiler) => compiler,
        Err(error) => return reply(&Reply::Ready(Err(error))),
    };
    reply(&Reply::Ready(Ok(())))?;
    let words = vocabulary.len().div_ceil(32);
    let mut followed: Option<Grammar> = None;
    loop {
        let frame = read_frame()?;
        let step = match postcard::from_bytes(&frame).ok()? {
            Request::Compile { source, answered } => {
                // What the last one took is given back before.
                followed = None;
                let compiled = compiler.compile(&source, &answered);
                compiled.and_then(|grammar| next(followed.insert(grammar), words))
            }
            Request::Accept(id) => match followed.as_mut()?.accept(id) {
                Ok(true) => Ok(Step::Stopped),
                Ok(false) => next(followed.as_mut()?, words),
                Err(error) => Err(error),
            },
            _ => return None,
        };
        reply(&Reply::Step(step))?;
    }
}

fn next(grammar: &mut Grammar, words: usize) -> Result<Step, GrammarError> {
    let mut mask = grammar.allowed()?;
    mask.resize(words, 0);
    let bytes = mask.into_iter().flat_map(u32::to_le_bytes);
    Ok(Step::Mask(Packed(bytes.collect())))
}

fn reply(reply: &Reply) -> Option<()> {
    write_all(&wire::frame(reply, wire::VOCABULARY_BYTES_MAX)?)
}

fn read_frame() -> Option<Vec<u8>> {
    let mut length = [0; 4];
    read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > wire::REQUEST_BYTES_MAX {
        return None;
    }
    let mut frame = vec![0; length];
    read_exact(&mut frame)?;
    Some(frame)
}

fn read_exact(mut buffer: &mut [u8]) -> Option<()> {
    while !buffer.is_empty() {
        match rustix::io::read(stdin(), &mut *buffer) {
            Ok(0) => return None,
            Ok(count) => buffer = &mut buffer[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(())
}

fn write_all(mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        match rustix::io::write(stdout(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(())
}
