//! Documents: what files say, piece by piece, as clean UTF-8.
//!
//! A line is the unit that is held in memory. What is not text is refused with its file and line: a byte that is
//! replaced silently would be trained on. spec: 15, section 2.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

/// The longest line, in bytes, its end included.
pub const LINE_BYTES_MAX: usize = 16 << 20;
/// From this length on a document of a text file ends at the next blank line, in bytes.
pub const DOCUMENT_BYTES: usize = 16 << 10;
/// From this length on it ends at the next line, in bytes.
pub const DOCUMENT_BYTES_LONG: usize = 64 << 10;
/// The largest number of files of an import.
pub const FILES_MAX: usize = 65_536;
/// What some editors put in front of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// What a file's lines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text.
    Text,
    /// One JSON object each.
    JsonLines,
}

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// What its lines are.
    pub form: Form,
    /// Its length when it was found.
    pub bytes: u64,
}

/// Why no documents come out of a file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The system.
    #[error("{} cannot be read", .path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Neither a file nor a folder of files.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// A link inside of a folder, which could lead anywhere.
    #[error("{} is a symbolic link", .0.display())]
    Link(PathBuf),
    /// A format that is not read.
    #[error("{} is a Parquet file, which is not read", .0.display())]
    Parquet(PathBuf),
    /// Too much at once.
    #[error("more than {FILES_MAX} files")]
    ManyFiles,
    /// A folder without anything to read.
    #[error("{} holds no file that ends in .txt, .md, .jsonl or .ndjson", .0.display())]
    NothingInside(PathBuf),
    /// A line that is not UTF-8, such as one in an older encoding, or with half of a surrogate pair.
    #[error("line {line} of {} is not UTF-8, from its byte {at} on", .path.display())]
    NotUtf8 {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// The first bad byte in it, from 1.
        at: usize,
    },
    /// A NUL, which no text has.
    #[error("line {line} of {} has a NUL character", .path.display())]
    Nul {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
    },
    /// A line that does not fit into memory by intent.
    #[error("line {line} of {} is longer than {LINE_BYTES_MAX} bytes", .path.display())]
    LongLine {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
    },
    /// A line that is not a JSON object.
    #[error("line {line} of {} is not a JSON object", .path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What JSON says of it, where it is not JSON at all.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// An object that lacks the field, or has something else in it.
    #[error("line {line} of {} has no text in the field {field:?}", .path.display())]
    NoField {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// Which field.
        field: String,
    },
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> DocumentError {
    let path = path.to_owned();
    move |source| DocumentError::Io {
        path: path.clone(),
        source,
    }
}

/// Finds the files that `paths` name. A folder stands for the files directly in it whose names say that they are text or
/// JSON lines, in the order of the bytes of their names.
///
/// # Errors
/// When one is not there or is not read, and when a folder has a link or nothing to read in it.
pub fn find(paths: &[PathBuf]) -> Result<Vec<SourceFile>, DocumentError> {
    let mut files = Vec::new();
    for path in paths {
        let found = fs::metadata(path).map_err(io(path))?;
        if found.is_dir() {
            let inside = files_in(path, FILES_MAX.saturating_sub(files.len()))?;
            files.extend(inside);
        } else if found.is_file() {
            files.push(SourceFile {
                form: form_of(path)?.unwrap_or(Form::Text),
                bytes: found.len(),
                path: path.clone(),
            });
        } else {
            return Err(DocumentError::NotAFile(path.clone()));
        }
        if files.len() > FILES_MAX {
            return Err(DocumentError::ManyFiles);
        }
    }
    Ok(files)
}

fn files_in(folder: &Path, room: usize) -> Result<Vec<SourceFile>, DocumentError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let entry = entry.map_err(io(folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(io(&path))?;
        if kind.is_symlink() {
            return Err(DocumentError::Link(path));
        }
        let Some(form) = form_of(&path)? else {
            continue;
        };
        if !kind.is_file() {
            return Err(DocumentError::NotAFile(path));
        }
        if files.len() >= room {
            return Err(DocumentError::ManyFiles);
        }
        let bytes = entry.metadata().map_err(io(&path))?.len();
        files.push(SourceFile { path, form, bytes });
    }
    if files.is_empty() {
        return Err(DocumentError::NothingInside(folder.to_owned()));
    }
    files.sort_unstable_by(|a, b| {
        let bytes = |file: &SourceFile| file.path.as_os_str().as_encoded_bytes().to_owned();
        bytes(a).cmp(&bytes(b))
    });
    Ok(files)
}

/// Returns what the name of a file says that it is, if it says it.
fn form_of(path: &Path) -> Result<Option<Form>, DocumentError> {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    match &*extension.to_ascii_lowercase() {
        "txt" | "text" | "md" => Ok(Some(Form::Text)),
        "jsonl" | "ndjson" => Ok(Some(Form::JsonLines)),
        "parquet" => Err(DocumentError::Parquet(path.to_owned())),
        _ => Ok(None),
    }
}

/// The documents of some files, in their order.
#[derive(Debug)]
pub struct Documents {
    waiting: VecDeque<SourceFile>,
    field: String,
    open: Option<Lines>,
    ended_bytes: u64,
    failed: bool,
}

impl Documents {
    /// Reads `files`; in JSON lines a document is the text of `field`.
    pub fn of(files: Vec<SourceFile>, field: &str) -> Self {
        Self {
            waiting: files.into(),
            field: field.to_owned(),
            open: None,
            ended_bytes: 0,
            failed: false,
        }
    }

    /// Returns how many bytes of the files were read.
    pub fn read_bytes(&self) -> u64 {
        self.ended_bytes + self.open.as_ref().map_or(0, |lines| lines.read_bytes)
    }

    fn advance(&mut self) -> Result<Option<String>, DocumentError> {
        loop {
            if self.open.is_none() {
                let Some(file) = self.waiting.pop_front() else {
                    return Ok(None);
                };
                self.open = Some(Lines::open(file)?);
            }
            let lines = self.open.as_mut().expect("it was just opened");
            let document = match lines.form {
                Form::Text => lines.text()?,
                Form::JsonLines => lines.field(&self.field)?,
            };
            let Some(document) = document else {
                self.ended_bytes += lines.read_bytes;
                self.open = None;
                continue;
            };
            let document = document.trim_end();
            if !document.is_empty() {
                return Ok(Some(document.to_owned()));
            }
        }
    }
}

impl Iterator for Documents {
    type Item = Result<String, DocumentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// A file, line by line.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    form: Form,
    reader: BufReader<File>,
    line: u64,
    read_bytes: u64,
}

impl Lines {
    fn open(file: SourceFile) -> Result<Self, DocumentError> {
        let opened = File::open(&file.path).map_err(io(&file.path))?;
        // A pipe that took the file's place would never end.
        if !opened.metadata().map_err(io(&file.path))?.is_file() {
            return Err(DocumentError::NotAFile(file.path));
        }
        Ok(Self {
            reader: BufReader::new(opened),
            path: file.path,
            form: file.form,
            line: 0,
            read_bytes: 0,
        })
    }

    /// The next line, with `\n` at its end if it ends.
    fn next(&mut self) -> Result<Option<String>, DocumentError> {
        let mut bytes = Vec::new();
        let most = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut self.reader).take(most).read_until(b'\n', &mut bytes);
        if read.map_err(io(&self.path))? == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.read_bytes += bytes.len() as u64;
        let (path, line) = (self.path.clone(), self.line);
        if bytes.len() > LINE_BYTES_MAX {
            return Err(DocumentError::LongLine { path, line });
        }
        let text = String::from_utf8(bytes).map_err(|error| DocumentError::NotUtf8 {
            path: path.clone(),
            line,
            at: error.utf8_error().valid_up_to() + 1,
        })?;
        if text.contains('\0') {
            return Err(DocumentError::Nul { path, line });
        }
        let text = match self.line {
            1 => text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text),
            _ => &text,
        };
        Ok(Some(with_plain_ends(text)))
    }

    /// The next piece of a text.
    fn text(&mut self) -> Result<Option<String>, DocumentError> {
        let mut document = String::new();
        while let Some(line) = self.next()? {
            document.push_str(&line);
            let ends = document.len() >= DOCUMENT_BYTES_LONG
                || document.len() >= DOCUMENT_BYTES && line.trim().is_empty();
            if ends {
                return Ok(Some(document));
            }
        }
        Ok((!document.is_empty()).then_some(document))
    }

    /// The text of a field of the next object.
    fn field(&mut self, field: &str) -> Result<Option<String>, DocumentError> {
        loop {
            let Some(text) = self.next()? else {
                return Ok(None);
            };
            if text.trim().is_empty() {
                continue;
            }
            let (path, line) = (self.path.clone(), self.line);
            let broken = |source| DocumentError::Json {
                path: path.clone(),
                line,
                source,
            };
            let value = serde_json::from_str(&text).map_err(|error| broken(Some(error)))?;
            let Value::Object(mut object) = value else {
                return Err(broken(None));
            };
            let Some(Value::String(document)) = object.remove(field) else {
                let field = field.to_owned();
                return Err(DocumentError::NoField { path, line, field });
            };
            if document.contains('\0') {
                return Err(DocumentError::Nul { path, line });
            }
            return Ok(Some(with_plain_ends(&document)));
        }
    }
}

/// Every end of a line as `\n`.
fn with_plain_ends(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}
