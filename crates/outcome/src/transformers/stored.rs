//! The head of a safetensors file, and where its tensors stand.
//!
//! The `safetensors` crate checks a whole file in memory. Models of strangers are larger than that should be, so only the head
//! is given to its parser here; it checks that tensors follow each other, and the length of the file is checked below.

use std::fs::File;
use std::io::{self, Read};

use safetensors::tensor::{Dtype, Metadata};
use thiserror::Error;

use crate::blocks::Storage;

/// The longest head, in bytes.
const HEAD_BYTES_MAX: u64 = 16 << 20;

/// A file is not a sound safetensors file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoredError {
    /// Reading failed.
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
    /// Its head is longer than the file or than any model's.
    #[error("the head of the file is said to have {0} bytes")]
    Long(u64),
    /// Its head is not one.
    #[error("the head of the file is unsound")]
    Head(#[source] serde_json::Error),
    /// Its tensors do not fill it.
    #[error("the file has {found} bytes, and its tensors fill {stated}")]
    Length {
        /// What it has.
        found: u64,
        /// What its head says.
        stated: u64,
    },
}

/// An open file whose head was read.
pub(super) struct StoredFile {
    pub(super) file: File,
    pub(super) metadata: Metadata,
    /// Where the data begins, in bytes from the begin of the file.
    pub(super) data_begin: u64,
}

impl StoredFile {
    pub(super) fn open(mut file: File) -> Result<Self, StoredError> {
        let found = file.metadata()?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > HEAD_BYTES_MAX || length.saturating_add(8) > found {
            return Err(StoredError::Long(length));
        }
        let mut head = vec![0; length as usize];
        file.read_exact(&mut head)?;
        let metadata: Metadata = serde_json::from_slice(&head).map_err(StoredError::Head)?;
        let data_begin = length + 8;
        let stated = data_begin.saturating_add(metadata.data_len() as u64);
        if stated != found {
            return Err(StoredError::Length { found, stated });
        }
        Ok(Self {
            file,
            metadata,
            data_begin,
        })
    }
}

/// How numbers of a type are stored, where the type is one of weights.
pub(super) fn storage(dtype: Dtype) -> Option<Storage> {
    match dtype {
        Dtype::F32 => Some(Storage::F32),
        Dtype::F16 => Some(Storage::F16),
        Dtype::BF16 => Some(Storage::Bf16),
        _ => None,
    }
}
