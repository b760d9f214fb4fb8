//! The files of a run on this device: here, or fetched from those who take part; and the states that follow from them.

use std::fs::File;
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy_primitives::B256;
use hearth_causes::WithCauses;
use hearth_net::{FetchError, Network, PeerAddress, ShareError, Topic};
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::run::book::{BOOK_BYTES_MAX, BookError, Member, RoundBook};
use hearth_workshop::{
    Admitted, AggregateError, Checkpoint, CheckpointError, OpenError, Stored, TrainError,
    TrainerId, Workshop,
};
use thiserror::Error;
use tokio::sync::Mutex;
use tracing::{debug, warn};

use super::folder::{RunFolder, RunFolderError};

/// Devices that are asked for a file, one after the other.
const ASKED_MAX: usize = 8;

/// Why a file or a state is not here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum DepotError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] RunFolderError),
    /// Nobody gave it.
    #[error("{name} was not fetched")]
    Fetch {
        /// The file.
        name: ContentHash,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// It cannot be given to others.
    #[error("a file of the run cannot be shared")]
    Share(#[from] ShareError),
    /// A book that is none.
    #[error("the book of a round cannot be read")]
    RoundBook(#[from] BookError),
    /// A checkpoint that is none.
    #[error("the state of a round cannot be read")]
    Checkpoint(#[from] CheckpointError),
    /// Contributions that do not add up.
    #[error("the contributions of a round cannot be added up")]
    Aggregate(#[from] AggregateError),
    /// The first state cannot be made.
    #[error("the first state of the run cannot be made")]
    First(#[from] OpenError),
    /// The contributions add up to something else than what was recorded.
    #[error("the round adds up to {found}, and {wanted} was recorded")]
    OtherState {
        /// What they add up to.
        found: ContentHash,
        /// What was recorded.
        wanted: ContentHash,
    },
    /// Work that cannot be done.
    #[error("the work cannot be done on this device")]
    Train(#[source] TrainError),
    /// A blocking task did not end.
    #[error("the work on a file was broken off")]
    Broken,
}

/// How long a file is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    /// So many bytes.
    Exactly(u64),
    /// Not more than so many.
    AtMost(u64),
}

/// The files of a run.
#[derive(Debug, Clone)]
pub(crate) struct Depot {
    pub(crate) folder: RunFolder,
    pub(crate) network: Network,
    pub(crate) topic: Arc<Topic>,
    /// One state is made at a time: two roles may want the same.
    making: Arc<Mutex<()>>,
}

impl Depot {
    pub(crate) fn new(folder: RunFolder, network: Network, topic: Arc<Topic>) -> Self {
        Self {
            folder,
            network,
            topic,
            making: Arc::default(),
        }
    }

    /// Devices that may have a file, `first` before the others.
    fn holders(&self, first: Option<DeviceId>) -> Vec<PeerAddress> {
        let mut holders = self.topic.participants();
        holders.sort_by_key(|(device, _)| Some(*device) != first);
        let holders = holders.into_iter().take(ASKED_MAX);
        holders.map(|(_, address)| address).collect()
    }

    /// Sees that a file is here, and gives it to others too.
    pub(crate) async fn get(
        &self,
        name: ContentHash,
        length: Length,
        first: Option<DeviceId>,
    ) -> Result<PathBuf, DepotError> {
        let path = self.folder.file(name);
        self.get_to(name, length, first, &path).await?;
        Ok(path)
    }

    /// As [`Depot::get`], into a place of its own.
    pub(crate) async fn get_to(
        &self,
        name: ContentHash,
        length: Length,
        first: Option<DeviceId>,
        to: &Path,
    ) -> Result<(), DepotError> {
        if self.is_shared(name, to).await? {
            return Ok(());
        }
        self.fetch(name, length, first, to).await?;
        self.network.share_of_run(to, Some(name)).await?;
        Ok(())
    }

    /// Gives a file to others if it is here. One that is not what its name says is of no use to anybody, and in the way of
    /// the one that is: it is removed.
    pub(crate) async fn is_shared(&self, name: ContentHash, at: &Path) -> Result<bool, DepotError> {
        if !at.is_file() {
            return Ok(false);
        }
        match self.network.share_of_run(at, Some(name)).await {
            Ok(_) => Ok(true),
            Err(error @ ShareError::Differs { .. }) => {
                warn!(error = %error.with_causes(), "a damaged file of a run is removed");
                std::fs::remove_file(at).map_err(|source| RunFolderError::Io {
                    path: at.to_owned(),
                    source,
                })?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Fetches a file that is not given to others from where it is put.
    pub(crate) async fn fetch(
        &self,
        name: ContentHash,
        length: Length,
        first: Option<DeviceId>,
        to: &Path,
    ) -> Result<(), DepotError> {
        let from = self.holders(first);
        let fetched = match length {
            Length::Exactly(bytes) => self.network.fetch(name, bytes, &from, to, |_| ()).await,
            Length::AtMost(bytes) => self.network.fetch_within(name, bytes, &from, to).await,
        };
        fetched.map_err(|source| DepotError::Fetch { name, source })
    }

    /// Gives a file that is here to others.
    pub(crate) async fn share(&self, name: ContentHash) -> Result<(), DepotError> {
        let path = self.folder.file(name);
        self.network.share_of_run(&path, Some(name)).await?;
        Ok(())
    }

    /// Keeps bytes, and gives them to others.
    pub(crate) async fn keep(&self, bytes: &[u8]) -> Result<ContentHash, DepotError> {
        let name = self.folder.keep(bytes)?;
        self.share(name).await?;
        Ok(name)
    }

    /// Forgets files that are of no use any more.
    pub(crate) async fn forget(&self, names: &[ContentHash]) {
        self.network.unshare_of_runs(names).await;
        for name in names {
            self.folder.forget(*name);
        }
    }

    /// The book of a recorded round.
    pub(crate) async fn book(&self, name: ContentHash) -> Result<RoundBook, DepotError> {
        let most = BOOK_BYTES_MAX as u64;
        self.get(name, Length::AtMost(most), None).await?;
        let bytes = self.folder.bytes(name, most)?.unwrap_or_default();
        Ok(RoundBook::read(&bytes)?)
    }

    /// Sees that the contributions of a round are here.
    pub(crate) async fn contributions(
        &self,
        workshop: &Workshop,
        members: &[Member],
    ) -> Result<(), DepotError> {
        let length = Length::Exactly(workshop.contribution_bytes());
        for member in members {
            let contribution = member.work.contribution;
            self.get(contribution, length, Some(member.trainer)).await?;
        }
        Ok(())
    }

    /// Sees that the state that the run begins from is here.
    pub(crate) async fn first_state(&self, workshop: &Arc<Workshop>) -> Result<B256, DepotError> {
        let write = || {
            let (depot, workshop) = (self.clone(), Arc::clone(workshop));
            blocking(move || depot.written(&workshop, &workshop.first_state()?))
        };
        let made = write().await?;
        if !self.is_shared(made, &self.folder.file(made)).await? {
            write().await?;
            self.share(made).await?;
        }
        Ok(made.0.into())
    }

    /// Sees that the state after a round is here: it is made of the state before and the contributions, or fetched where
    /// that one is not here.
    pub(crate) async fn state_after(
        &self,
        workshop: &Arc<Workshop>,
        book: &RoundBook,
        state: B256,
    ) -> Result<(), DepotError> {
        let _making = self.making.lock().await;
        let wanted = ContentHash(state.0);
        if self.is_shared(wanted, &self.folder.file(wanted)).await? {
            return Ok(());
        }
        let parent = ContentHash(book.parent.0);
        if self.is_shared(parent, &self.folder.file(parent)).await? {
            match self.contributions(workshop, &book.members).await {
                Ok(()) => {
                    let found = self.added_up(workshop, book).await?;
                    if found != wanted {
                        return Err(DepotError::OtherState { found, wanted });
                    }
                    return Ok(());
                }
                Err(error) => {
                    debug!(error = %error.with_causes(), "a contribution is missing: the state is fetched");
                }
            }
        }
        self.fetched_state(workshop, wanted).await
    }

    /// Fetches a state whole.
    pub(crate) async fn fetched_state(
        &self,
        workshop: &Workshop,
        wanted: ContentHash,
    ) -> Result<(), DepotError> {
        let length = Length::AtMost(workshop.checkpoint_bytes_max());
        self.get(wanted, length, None).await.map(drop)
    }

    /// Adds the contributions of a book up, which are all here, and keeps the state that they lead to.
    pub(crate) async fn added_up(
        &self,
        workshop: &Arc<Workshop>,
        book: &RoundBook,
    ) -> Result<ContentHash, DepotError> {
        let (depot, workshop, book) = (self.clone(), Arc::clone(workshop), book.clone());
        let made = blocking(move || {
            let parent = depot.checkpoint(&workshop, ContentHash(book.parent.0))?;
            let paths: Vec<_> = book
                .members
                .iter()
                .map(|member| depot.folder.file(member.work.contribution))
                .collect();
            let members = book.members.iter().zip(&paths);
            let admitted: Vec<_> = members
                .map(|(member, path)| Admitted {
                    trainer: TrainerId(member.trainer.0),
                    steps: member.work.steps,
                    contribution: Stored::File(path),
                })
                .collect();
            let round = u32::try_from(book.index).unwrap_or(u32::MAX);
            let watch = &mut |_| ControlFlow::Continue(());
            let next = workshop.aggregate(parent, round, &admitted, watch)?;
            depot.written(&workshop, &next)
        });
        let made = made.await?;
        self.share(made).await?;
        Ok(made)
    }

    /// Reads a state that is here. It blocks.
    pub(crate) fn checkpoint(
        &self,
        workshop: &Workshop,
        name: ContentHash,
    ) -> Result<Checkpoint, DepotError> {
        let path = self.folder.file(name);
        let file = File::open(&path).map_err(|source| RunFolderError::Io {
            path: path.clone(),
            source,
        })?;
        let read = workshop.read_checkpoint(&mut BufReader::new(file))?;
        match read.hash() == name {
            true => Ok(read),
            false => Err(RunFolderError::OtherFile { path }.into()),
        }
    }

    fn written(&self, workshop: &Workshop, state: &Checkpoint) -> Result<ContentHash, DepotError> {
        let name = state.hash();
        if !self.folder.has(name) {
            let mut aside = self.folder.aside()?;
            let path = self.folder.file(name);
            let written = workshop.write_checkpoint(state, &mut aside);
            written.map_err(|source| RunFolderError::Io { path, source })?;
            self.folder.put(aside, name)?;
        }
        Ok(name)
    }
}

/// Runs what computes or waits for the disk on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DepotError> + Send + 'static,
) -> Result<T, DepotError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| DepotError::Broken)?
}
