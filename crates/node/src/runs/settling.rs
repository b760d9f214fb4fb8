//! Validates epochs: enrolls this device, computes what everybody has earned, signs it, and sends what enough have signed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, keccak256};
use hearth_causes::WithCauses;
use hearth_chain::ledger::{Ledger, LedgerError, LedgerRefusal, SignatureSet};
use hearth_chain::sender::Sender;
use hearth_environment::Environment;
use hearth_net::{FetchError, Network, ShareError, TakePartError, Topic, TopicId};
use hearth_protocol::content::ContentHash;
use hearth_protocol::ledger::statement::EpochStatement;
use hearth_protocol::ledger::sum_tree::{SumTree, SumTreeError};
use hearth_protocol::run::epochs::{
    DueEpoch, EpochEffect, EpochEvent, EpochMessage, EpochValidator, TreeFacts,
};
use hearth_protocol::run::history::HistoryError;
use hearth_protocol::run::pay::{self, Earned, PaidRun, PledgesEarned};
use hearth_protocol::time::Timestamp;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{interval, sleep};
use tracing::{debug, info, warn};

use super::follow::committee_of;
use crate::ledger::{Declaration, LedgerSigner, RegistrationKeys, registration_call};

/// How often the machine is told that time passed, and the chain is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is tried to give others what is kept.
const SHARE_AGAIN: Duration = Duration::from_secs(5);
/// The longest data of a tree: 2^22 rows of 36 bytes.
const DATA_BYTES_MAX: u64 = 36 << 22;

/// Why what was earned is not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum SettlingError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The books of a run.
    #[error("the books of a run do not follow each other")]
    Books(#[from] HistoryError),
    /// The data of a tree.
    #[error("the data of a record of rewards cannot be used")]
    Tree(#[from] SumTreeError),
    /// The data of a tree are not here.
    #[error("nobody gave the data of a record of rewards")]
    Fetch(#[from] FetchError),
    /// They cannot be given to others.
    #[error("the data of a record of rewards are not shared")]
    Share(#[from] ShareError),
    /// The network.
    #[error("the device cannot take part in the ledger's topic")]
    TakePart(#[from] TakePartError),
    /// The disk.
    #[error("the data of a record of rewards cannot be kept")]
    Disk(#[source] std::io::Error),
}

impl SettlingError {
    /// Whether all who compute the tree of an asset meet this, whenever they do: it follows from books, data that are named by
    /// their hash, or a contract's refusal. Everything else is of the chain's endpoint, the network or the disk, and passes.
    ///
    /// The token itself is asked for nothing here: what of it can be earned is in the ledger's books.
    fn is_of_the_asset(&self) -> bool {
        match self {
            Self::Books(_) | Self::Tree(_) => true,
            Self::Ledger(error) => error.refusal().is_some(),
            _ => false,
        }
    }

    /// Whether nobody gave the data of a record now, and somebody may in a moment: who has just started, for example, does
    /// not give what it has yet.
    pub(crate) fn may_come(&self) -> bool {
        matches!(self, Self::Fetch(error) if error.is_retryable())
    }
}

/// What the runs on this device have recorded.
pub(crate) trait PaidRuns: Send + Sync {
    /// Each run that is here, with its rounds.
    fn paid_runs(&self) -> Vec<PaidRun>;
}

/// What everybody has earned, and how it gets to the chain.
#[derive(Clone)]
pub(crate) struct Settling {
    pub(crate) network: Network,
    pub(crate) ledger: Ledger,
    pub(crate) sender: Sender,
    pub(crate) signer: Arc<LedgerSigner>,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) runs: Arc<dyn PaidRuns>,
    /// Where the data of trees are kept.
    pub(crate) folder: PathBuf,
    pub(crate) index: Arc<Mutex<RecordIndex>>,
}

/// The most assets of which rewards are shown and claimed, beside Ember and Voice.
const ASSETS_MAX: usize = 256;

/// What the ledger has recorded of epochs, as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct RecordIndex {
    from_block: u64,
    /// The name of the data, by asset and epoch.
    records: BTreeMap<(Address, u64), ContentHash>,
}

impl RecordIndex {
    async fn read_on(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        loop {
            let page = ledger.epoch_records(self.from_block).await?;
            for item in &page.items {
                let statement = &item.statement;
                let key = (statement.asset, statement.epoch);
                self.records.insert(key, statement.data);
            }
            self.from_block = page.next_block;
            if page.is_last() {
                return Ok(());
            }
        }
    }
}

/// The topic in which validators of a ledger talk.
pub(crate) fn ledger_topic(ledger: &Ledger) -> TopicId {
    let place = (ledger.chain().0, ledger.addresses().rewards);
    let named = format!("hearth ledger {} {}", place.0, place.1);
    TopicId(keccak256(named).0)
}

/// A tree of the past, with its record.
#[derive(Debug, Clone)]
pub(crate) struct FinalTree {
    pub(crate) epoch: u64,
    pub(crate) tree: SumTree,
}

impl FinalTree {
    fn earned(&self) -> Earned {
        self.tree.accounts().iter().copied().collect()
    }
}

impl Settling {
    fn now(&self) -> Timestamp {
        Timestamp(self.environment.now_ms())
    }

    fn now_s(&self) -> u64 {
        self.now().as_secs()
    }

    /// The newest epoch before `before` with a final record of `asset`, and the name of the record's data.
    pub(crate) async fn newest_final(
        &self,
        asset: Address,
        before: u64,
    ) -> Result<Option<(u64, ContentHash)>, LedgerError> {
        let known: Vec<_> = {
            let mut index = self.index.lock().await;
            index.read_on(&self.ledger).await?;
            let records = index.records.range((asset, 0)..(asset, before));
            records.map(|((_, epoch), data)| (*epoch, *data)).collect()
        };
        for (epoch, data) in known.into_iter().rev() {
            if self.is_final(asset, epoch).await? {
                return Ok(Some((epoch, data)));
            }
        }
        Ok(None)
    }

    /// All assets that have a record: Ember, Voice, and what runs were funded in.
    pub(crate) async fn recorded_assets(&self) -> Result<Vec<Address>, LedgerError> {
        let addresses = self.ledger.addresses();
        let first = [addresses.ember, addresses.voice];
        let mut index = self.index.lock().await;
        index.read_on(&self.ledger).await?;
        let others = index.records.keys().map(|(asset, _)| *asset);
        let others: BTreeSet<Address> = others.filter(|asset| !first.contains(asset)).collect();
        let others = others.into_iter().take(ASSETS_MAX);
        Ok(first.into_iter().chain(others).collect())
    }

    /// Whether an epoch's record of an asset stands for good.
    async fn is_final(&self, asset: Address, epoch: u64) -> Result<bool, LedgerError> {
        let record = self.ledger.epoch_record(asset, epoch).await?;
        let clock = self.ledger.clock();
        Ok(record.is_some_and(|record| {
            !record.is_revoked && clock.final_from_s(record.recorded_at_s) <= self.now_s()
        }))
    }

    /// The tree of a final record.
    pub(crate) async fn tree(
        &self,
        topic: &Topic,
        asset: Address,
        epoch: u64,
        data: ContentHash,
    ) -> Result<FinalTree, SettlingError> {
        let path = self.folder.join(data.to_string());
        if !path.is_file() {
            let participants = topic.participants();
            let from: Vec<_> = participants.into_iter().map(|(_, place)| place).collect();
            let fetched = self
                .network
                .fetch_within(data, DATA_BYTES_MAX, &from, &path);
            fetched.await?;
        }
        self.network.share_of_run(&path, Some(data)).await?;
        let bytes = std::fs::read(&path).map_err(SettlingError::Disk)?;
        let tree = SumTree::from_data(asset, &bytes)?;
        Ok(FinalTree { epoch, tree })
    }

    /// Gives others the newest records that are kept here: after a start they are on the disk alone, and whoever asks is
    /// refused.
    async fn share_kept(&self) -> Result<(), LedgerError> {
        let epoch = self.ledger.clock().epoch_at(self.now_s());
        for asset in self.recorded_assets().await? {
            let newest = self.newest_final(asset, epoch.unwrap_or_default()).await?;
            let Some((_, data)) = newest else { continue };
            let path = self.folder.join(data.to_string());
            if path.is_file()
                && let Err(error) = self.network.share_of_run(&path, Some(data)).await
            {
                warn!(error = %error.with_causes(), %asset, "a kept record of rewards is not given to others");
            }
        }
        Ok(())
    }

    /// Does so once the ledger can be read.
    pub(crate) async fn share_when_possible(&self) {
        while let Err(error) = self.share_kept().await {
            debug!(error = %error.with_causes(), "kept records of rewards are not given to others yet");
            sleep(SHARE_AGAIN).await;
        }
    }

    /// What is final before `before`: the newest epoch with a final tree of Ember and of Voice.
    async fn base(
        &self,
        topic: &Topic,
        before: u64,
    ) -> Result<Option<(FinalTree, FinalTree)>, SettlingError> {
        let addresses = *self.ledger.addresses();
        let mut before = before;
        while let Some((epoch, ember)) = self.newest_final(addresses.ember, before).await? {
            let voice = self
                .newest_final(addresses.voice, epoch.saturating_add(1))
                .await?;
            if let Some((_, voice)) = voice.filter(|(at, _)| *at == epoch) {
                let ember = self.tree(topic, addresses.ember, epoch, ember).await?;
                let voice = self.tree(topic, addresses.voice, epoch, voice).await?;
                return Ok(Some((ember, voice)));
            }
            // What is final in one asset only is nothing to count from.
            before = epoch;
        }
        Ok(None)
    }

    /// The newest epoch before `before` with a final record in each of these assets.
    async fn pledge_bases(
        &self,
        assets: &BTreeSet<Address>,
        before: u64,
    ) -> Result<BTreeMap<Address, Option<u64>>, LedgerError> {
        let mut bases = BTreeMap::new();
        for asset in assets {
            let newest = self.newest_final(*asset, before).await?;
            bases.insert(*asset, newest.map(|(epoch, _)| epoch));
        }
        Ok(bases)
    }

    /// Computes the trees of an epoch, keeps their data and gives them to others. Nothing where a run is not here, or the
    /// trees would follow others than these: it is another time then.
    async fn compute(
        &self,
        topic: &Topic,
        (epoch, base): (u64, Option<u64>),
        pledge_bases: &BTreeMap<Address, Option<u64>>,
        runs: &[B256],
    ) -> Result<Option<Vec<TreeFacts>>, SettlingError> {
        let mut paid = self.runs.paid_runs();
        paid.retain(|run| runs.contains(&run.rules.run));
        if paid.len() != runs.len() {
            return Ok(None);
        }
        let before = self.base(topic, epoch).await?;
        if before.as_ref().map(|(ember, _)| ember.epoch) != base {
            return Ok(None);
        }
        let mut facts = self.emitted_trees(&paid, epoch, before.as_ref()).await?;
        for asset in self.pledged_assets(&paid, epoch) {
            let tree = self.pledge_tree(topic, &paid, asset, epoch).await;
            let Some(tree) = unless_of_the_asset(tree, asset, epoch)? else {
                continue;
            };
            if pledge_bases.get(&asset) != Some(&tree.base) {
                return Ok(None);
            }
            facts.push(tree);
        }
        Ok(Some(facts))
    }

    /// The trees of Ember and of Voice; none where nothing is due.
    async fn emitted_trees(
        &self,
        paid: &[PaidRun],
        epoch: u64,
        before: Option<&(FinalTree, FinalTree)>,
    ) -> Result<Vec<TreeFacts>, SettlingError> {
        let epoch_s = self.ledger.clock().epoch_s();
        let addresses = self.ledger.addresses();
        let credits = pay::credits(paid, epoch, epoch_s)?;
        let pledged = |through| {
            let credits = pay::pledge_credits(paid, addresses.ember, through, epoch_s)?;
            Ok::<_, HistoryError>(pay::earned(&credits))
        };
        let base = before.map(|(ember, _)| ember.epoch);
        let (now, at_base) = (pledged(epoch)?, base.map(pledged).transpose()?);
        let at_base = at_base.unwrap_or_default();
        let pledges = PledgesEarned {
            now: &now,
            at_base: &at_base,
        };
        let had = before.map(|(ember, voice)| (ember.earned(), voice.earned()));
        let ember_base = base.zip(had.as_ref().map(|(ember, _)| ember));
        let ember = pay::ember_tree(&pay::earned(&credits), pledges, ember_base, epoch, epoch_s);
        let voice_base = had.as_ref().map(|(_, voice)| voice);
        let voice = pay::voice_tree(&ember.emitted, voice_base, epoch, epoch_s);
        if ember_base.map_or(ember.sums.is_empty(), |(_, had)| *had == ember.sums) {
            return Ok(Vec::new());
        }
        let mut facts = Vec::new();
        for (asset, earned) in [(addresses.ember, ember.sums), (addresses.voice, voice)] {
            facts.push(self.keep(&SumTree::new(asset, &earned)?, base).await?);
        }
        Ok(facts)
    }

    /// The assets other than Ember in which something was released by `epoch`.
    fn pledged_assets(&self, paid: &[PaidRun], epoch: u64) -> BTreeSet<Address> {
        let addresses = self.ledger.addresses();
        let mut assets = pay::released_tokens(paid, epoch);
        assets.retain(|asset| ![addresses.ember, addresses.voice].contains(asset));
        assets
    }

    /// The tree of what was earned of pledges in an asset; nothing where nothing is due.
    async fn pledge_tree(
        &self,
        topic: &Topic,
        paid: &[PaidRun],
        asset: Address,
        epoch: u64,
    ) -> Result<Option<TreeFacts>, SettlingError> {
        let epoch_s = self.ledger.clock().epoch_s();
        let earned = pay::earned(&pay::pledge_credits(paid, asset, epoch, epoch_s)?);
        let before = match self.newest_final(asset, epoch).await? {
            Some((base, data)) => Some(self.tree(topic, asset, base, data).await?),
            None => None,
        };
        let had = before.as_ref().map(FinalTree::earned).unwrap_or_default();
        let tree = pay::pledge_tree(&earned, Some(&had));
        if tree == had {
            return Ok(None);
        }
        let base = before.map(|before| before.epoch);
        Ok(Some(self.keep(&SumTree::new(asset, &tree)?, base).await?))
    }

    async fn keep(&self, tree: &SumTree, base: Option<u64>) -> Result<TreeFacts, SettlingError> {
        let (data, name) = (tree.data(), tree.data_hash());
        std::fs::create_dir_all(&self.folder).map_err(SettlingError::Disk)?;
        let path = self.folder.join(name.to_string());
        let written = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            std::io::Write::write_all(&mut file, &data)?;
            file.as_file().sync_all()?;
            file.persist(&path).map(drop).map_err(|error| error.error)
        };
        written().map_err(SettlingError::Disk)?;
        self.network.share_of_run(&path, Some(name)).await?;
        let root = tree.root();
        Ok(TreeFacts {
            asset: tree.asset(),
            base,
            root: root.hash,
            total: root.sum,
            data: name,
        })
    }

    /// Whether this household has votes, as far as the chain says.
    pub(crate) async fn has_votes(&self) -> bool {
        let votes = self.ledger.votes(self.sender.key().account).await;
        votes.is_ok_and(|votes| !votes.is_zero())
    }

    /// Registers this device, once, so that it can validate.
    pub(crate) async fn register(&self, keys: &RegistrationKeys) -> Result<(), LedgerError> {
        let session = self.signer.session_key();
        if self.ledger.registration(session).await?.is_some() {
            return Ok(());
        }
        let call = registration_call(keys, &self.ledger);
        self.ledger.send(&self.sender, &call).await?;
        info!("this device is registered in the ledger");
        Ok(())
    }
}

/// What became of the tree of a pledged asset. A failure that all meet leaves it out: an asset that others chose is in
/// nobody's way. One that passes fails the whole epoch for now: validators that left out what only they cannot read would
/// sign different sets of trees.
fn unless_of_the_asset(
    tree: Result<Option<TreeFacts>, SettlingError>,
    asset: Address,
    epoch: u64,
) -> Result<Option<TreeFacts>, SettlingError> {
    match tree {
        Err(error) if error.is_of_the_asset() => {
            warn!(error = %error.with_causes(), %asset, epoch, "what was earned of pledges is not recorded");
            Ok(None)
        }
        tree => tree,
    }
}

/// Validates epochs until it is dropped.
pub(crate) struct EpochTask {
    pub(crate) settling: Settling,
    machine: EpochValidator,
    topic: Topic,
    enrolled: Option<u64>,
    recorded: BTreeMap<u64, BTreeSet<Address>>,
    /// The epoch of which it was said that it cannot be computed now.
    delayed: Option<u64>,
}

impl EpochTask {
    pub(crate) fn new(settling: Settling) -> Result<Self, TakePartError> {
        let topic = settling.network.take_part(ledger_topic(&settling.ledger))?;
        let ledger = &settling.ledger;
        let machine = EpochValidator::new(
            settling.network.device(),
            *ledger.domain(),
            ledger.addresses().rewards,
            ledger.clock().epoch_s(),
        );
        Ok(Self {
            machine,
            topic,
            settling,
            enrolled: None,
            recorded: BTreeMap::new(),
            delayed: None,
        })
    }

    pub(crate) async fn run(mut self) {
        let mut looks = interval(LOOK_EVERY);
        loop {
            tokio::select! {
                heard = self.topic.heard() => {
                    let Some(heard) = heard else { return };
                    if let Ok(message) = postcard::from_bytes::<EpochMessage>(&heard.body) {
                        let from = heard.from;
                        self.tell(EpochEvent::Heard { from, message }).await;
                    }
                }
                _ = looks.tick() => {
                    if let Err(error) = self.look().await {
                        debug!(error = %error.with_causes(), "the epochs of the ledger were not looked at");
                    }
                    self.tell(EpochEvent::Tick).await;
                }
            }
        }
    }

    /// Enrolls where it is time, and finds out which epoch waits for a record.
    async fn look(&mut self) -> Result<(), SettlingError> {
        let ledger = self.settling.ledger.clone();
        let now_s = self.settling.now_s();
        let Some(epoch) = ledger.clock().epoch_at(now_s) else {
            return Ok(());
        };
        let is_time = ledger.clock().enrollment_s(epoch).contains(&now_s);
        if is_time && self.enrolled != Some(epoch) {
            self.enroll(epoch).await?;
        }
        let Some(in_office) = ledger.in_office().await? else {
            return Ok(());
        };
        let Some(over) = in_office.checked_sub(1) else {
            return Ok(());
        };
        let paid = self.settling.runs.paid_runs();
        let pledged = self.settling.pledged_assets(&paid, over);
        if self.are_recorded(over, &pledged).await? {
            return Ok(());
        }
        let committee = ledger.committee(in_office, B256::ZERO).await?;
        let base = self.settling.base(&self.topic, over).await?;
        let due = DueEpoch {
            epoch: over,
            base: base.map(|(ember, _)| ember.epoch),
            pledge_bases: self.settling.pledge_bases(&pledged, over).await?,
            committee: committee_of(&committee),
            opened_at: Timestamp::from_secs(ledger.clock().enrollment_s(in_office).end),
            runs: paid.iter().map(|run| run.rules.run).collect(),
        };
        self.tell(EpochEvent::Due(due)).await;
        Ok(())
    }

    /// Whether the epoch has its records, in all assets in which it may have one.
    async fn are_recorded(
        &mut self,
        over: u64,
        pledged: &BTreeSet<Address>,
    ) -> Result<bool, SettlingError> {
        let ledger = self.settling.ledger.clone();
        let addresses = ledger.addresses();
        let assets = [addresses.ember, addresses.voice];
        let assets: BTreeSet<Address> = assets.into_iter().chain(pledged.iter().copied()).collect();
        for asset in &assets {
            let known = self.recorded.get(&over);
            if known.is_some_and(|known| known.contains(asset)) {
                continue;
            }
            if ledger.epoch_record(*asset, over).await?.is_some() {
                self.recorded.entry(over).or_default().insert(*asset);
                let (epoch, asset) = (over, *asset);
                self.tell(EpochEvent::Recorded { epoch, asset }).await;
            }
        }
        self.recorded.retain(|epoch, _| *epoch >= over);
        let known = self.recorded.get(&over);
        Ok(known.is_some_and(|known| assets.is_subset(known)))
    }

    async fn enroll(&mut self, epoch: u64) -> Result<(), SettlingError> {
        let settling = &self.settling;
        let declared = settling
            .signer
            .sign(&Declaration::Enrollment { epoch })
            .await;
        let signature = match declared {
            Ok(signature) => signature,
            Err(error) => {
                warn!(error = %error.with_causes(), "this device does not enroll");
                self.enrolled = Some(epoch);
                return Ok(());
            }
        };
        let ledger = &settling.ledger;
        let session = settling.signer.session_key();
        let call = ledger.addresses().enroll(session, &signature);
        match ledger.send(&settling.sender, &call).await {
            Ok(_) => {
                debug!(epoch, "this device is enrolled");
                self.enrolled = Some(epoch);
            }
            // Without votes, or with others who are drawn before it, it waits for the next epoch.
            Err(LedgerError::Refused(refusal)) => {
                debug!(epoch, %refusal, "this device does not validate in this epoch");
                if !matches!(*refusal, LedgerRefusal::EnrollmentClosed(_)) {
                    self.enrolled = Some(epoch);
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn tell(&mut self, event: EpochEvent) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let now = self.settling.now();
            for effect in self.machine.handle(now, event) {
                events.extend(self.perform(effect).await);
            }
        }
    }

    async fn perform(&mut self, effect: EpochEffect) -> Option<EpochEvent> {
        let settling = &self.settling;
        match effect {
            EpochEffect::Say(message) => {
                if let Ok(body) = postcard::to_allocvec(&message)
                    && let Err(error) = self.topic.say(body).await
                {
                    warn!(error = %error.with_causes(), "an epoch's message is not said");
                }
                None
            }
            EpochEffect::Compute {
                epoch,
                base,
                pledge_bases,
                runs,
            } => {
                let computing = settling.compute(&self.topic, (epoch, base), &pledge_bases, &runs);
                let trees = match computing.await {
                    Ok(trees) => trees,
                    Err(error) => {
                        self.say_delayed(epoch, &error);
                        None
                    }
                };
                Some(EpochEvent::Computed { epoch, runs, trees })
            }
            EpochEffect::Sign(statement) => {
                let signed = settling.signer.sign(&Declaration::Epoch(statement)).await;
                let signature = signed.map_err(|error| {
                    warn!(error = %error.with_causes(), "an epoch is not signed");
                });
                Some(EpochEvent::Signed {
                    statement,
                    signature: signature.ok(),
                })
            }
            EpochEffect::Record {
                statement,
                base,
                mask,
                signatures,
            } => {
                let signed = SignatureSet { mask, signatures };
                self.record(&statement, base, &signed).await;
                None
            }
        }
    }

    /// Says once an epoch that it is computed later: it is tried again every few seconds.
    fn say_delayed(&mut self, epoch: u64, error: &SettlingError) {
        let is_new = self.delayed.replace(epoch) != Some(epoch);
        match is_new {
            true => {
                warn!(error = %error.with_causes(), epoch, "what was earned is not computed yet; it is tried again");
            }
            false => {
                debug!(error = %error.with_causes(), epoch, "what was earned is not computed yet");
            }
        }
    }

    async fn record(&self, statement: &EpochStatement, base: Option<u64>, signed: &SignatureSet) {
        let settling = &self.settling;
        let addresses = settling.ledger.addresses();
        let call = addresses.record_epoch(statement, base, signed);
        let epoch = statement.epoch;
        match settling.ledger.send(&settling.sender, &call).await {
            Ok(_) => info!(epoch, asset = %statement.asset, "what was earned is recorded"),
            Err(LedgerError::Refused(refusal)) => {
                debug!(epoch, %refusal, "what was earned was not taken");
            }
            Err(error) => {
                warn!(epoch, error = %error.with_causes(), "what was earned was not sent");
                sleep(LOOK_EVERY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_chain::client::ChainError;

    use super::*;

    const ASSET: Address = Address::repeat_byte(7);

    fn left_out(error: impl Into<SettlingError>) -> bool {
        matches!(unless_of_the_asset(Err(error.into()), ASSET, 3), Ok(None))
    }

    #[test]
    fn what_all_meet_leaves_an_asset_out() {
        assert!(left_out(SumTreeError::Overflow));
        assert!(left_out(SumTreeError::TooLarge));
        let refusal = LedgerRefusal::DeviceUnknown(ASSET);
        assert!(left_out(LedgerError::Refused(Box::new(refusal))));
    }

    #[test]
    fn what_passes_holds_the_epoch_up_until_it_has_passed() {
        let silent = ChainError::Unavailable {
            method: "eth_getLogs".to_owned(),
            attempts: 3,
            reason: "timeout".to_owned(),
            retry_after: None,
        };
        assert!(!left_out(LedgerError::from(silent)));
        let odd = ChainError::Malformed {
            method: "eth_call".to_owned(),
            reason: "no JSON".to_owned(),
        };
        assert!(!left_out(LedgerError::from(odd)));
        assert!(!left_out(FetchError::NoProvider));
        assert!(!left_out(ShareError::TooMany));
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(!left_out(SettlingError::Disk(full)));
    }

    #[test]
    fn a_tree_that_is_there_stays() {
        let tree = TreeFacts {
            asset: ASSET,
            base: Some(2),
            root: B256::ZERO,
            total: hearth_protocol::money::Amount::new(1),
            data: ContentHash([1; 32]),
        };
        let kept = unless_of_the_asset(Ok(Some(tree)), ASSET, 3);
        assert_eq!(kept.unwrap(), Some(tree));
        assert!(unless_of_the_asset(Ok(None), ASSET, 3).unwrap().is_none());
    }
}
