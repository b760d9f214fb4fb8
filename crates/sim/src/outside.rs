//! Everything that is between the machines: time, links, the way to the chain, and the log of what happened.

use std::collections::BTreeMap;
use std::fmt;

use hearth_protocol::answer::{PayerFrame, ProviderFrame};
use hearth_protocol::channel::OnchainState;
use hearth_protocol::channel::provider::Sight;
use hearth_protocol::id::ChannelId;
use hearth_protocol::time::Timestamp;

use crate::chain::{Chain, WITHDRAW_DELAY_S};
use crate::random::Random;

/// For how long the chain is out of reach at most, in milliseconds: half of the withdraw delay, less the
/// time for a claim.
pub(crate) const AWAY_MS_MAX: u64 = WITHDRAW_DELAY_S * 1_000 / 2 - WITHIN_REACH_MS;
/// For how long the chain is within reach at least, so that a claim after another one is final.
pub(crate) const WITHIN_REACH_MS: u64 = 100_000;

/// A stream between the payer and a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamId(pub(crate) u64);

/// The number of a provider, from 0.
pub(crate) type SellerNumber = usize;

/// What arrives at a provider.
#[derive(Debug)]
pub(crate) enum Up {
    /// A frame.
    Frame(PayerFrame),
    /// The payer says nothing more.
    Finished,
    /// The stream broke, or what came is not a frame.
    Broken,
}

/// What arrives at the payer.
#[derive(Debug)]
pub(crate) enum Down {
    /// A frame.
    Frame(ProviderFrame),
    /// The stream ended.
    Closed {
        /// What came is not a frame.
        garbage: bool,
    },
    /// Nothing comes from the device any more.
    Unheard,
}

/// What is going to happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The payer's program asks something.
    Question,
    /// Something arrives at a provider.
    Up(StreamId, Up),
    /// Something arrives at the payer.
    Down(StreamId, Down),
    /// A timer of the payer's.
    PayerTick,
    /// A timer of a provider's stream.
    StreamTick(SellerNumber, StreamId),
    /// A provider's model makes what is next.
    ModelMakes(SellerNumber, StreamId),
    /// A provider's disk has what was written first. Nothing of an earlier life counts.
    Written(SellerNumber, u64),
    /// The chain answers a provider.
    ChainAnswers(SellerNumber, u64, ChannelId, Option<(OnchainState, Sight)>),
    /// A provider looks after its channels: it follows the chain, and claims.
    Housekeeping(SellerNumber),
    /// A provider's device starts again.
    Restarts(SellerNumber),
    /// The chain makes a block.
    Block,
    /// Something goes wrong.
    Fault,
}

/// How an endpoint of the chain answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// As it should.
    Works,
    /// Not at all.
    Dead,
    /// It shows the blocks up to then, and no newer ones.
    StuckSince(Timestamp),
}

#[derive(Debug, Clone, Copy)]
struct Link {
    seller: SellerNumber,
    /// When all that was sent so far has arrived: frames do not overtake one another.
    up_clear_at: Timestamp,
    down_clear_at: Timestamp,
    broken: bool,
}

/// What happened, as lines of text, and their hash.
#[derive(Debug)]
pub struct Log {
    hasher: blake3::Hasher,
    lines: Option<Vec<String>>,
}

impl Log {
    /// A log that keeps its lines, or only their hash.
    pub(crate) fn new(keeps_lines: bool) -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            lines: keeps_lines.then(Vec::new),
        }
    }

    pub(crate) fn push(&mut self, now: Timestamp, what: fmt::Arguments<'_>) {
        let line = format!("{:>9} {what}", now.0);
        self.hasher.update(line.as_bytes());
        self.hasher.update(b"\n");
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    /// The hash of all lines so far, in hexadecimal digits.
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    /// The lines, where they are kept.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}

/// The outside world of the machines.
#[derive(Debug)]
pub(crate) struct Outside {
    pub(crate) now: Timestamp,
    pub(crate) random: Random,
    pub(crate) chain: Chain,
    pub(crate) reach: Reach,
    /// The chain makes no blocks.
    pub(crate) stalled: bool,
    /// Since when the chain is out of reach, or within it.
    pub(crate) turned_at: Timestamp,
    pub(crate) log: Log,
    queue: BTreeMap<(Timestamp, u64), Happening>,
    numbered: u64,
    links: BTreeMap<StreamId, Link>,
    /// The longest that a frame is under way, in milliseconds.
    delay_ms_max: u64,
}

impl Outside {
    pub(crate) fn new(mut random: Random, chain: Chain, now: Timestamp, log: Log) -> Self {
        let delay_ms_max = random.pick(&[5, 50, 400]);
        Self {
            now,
            random,
            chain,
            reach: Reach::Works,
            stalled: false,
            turned_at: now,
            log,
            queue: BTreeMap::new(),
            numbered: 0,
            links: BTreeMap::new(),
            delay_ms_max,
        }
    }

    /// Notes what happened.
    pub(crate) fn say(&mut self, what: fmt::Arguments<'_>) {
        self.log.push(self.now, what);
    }

    /// Has something happen in so many milliseconds.
    pub(crate) fn after(&mut self, ms: u64, what: Happening) {
        self.at(self.now.plus_ms(ms), what);
    }

    /// Has something happen at a time, or now where that is past.
    pub(crate) fn at(&mut self, at: Timestamp, what: Happening) {
        self.numbered += 1;
        self.queue.insert((at.max(self.now), self.numbered), what);
    }

    /// The next thing that happens; the time is then.
    pub(crate) fn next(&mut self) -> Option<Happening> {
        let ((at, _), happening) = self.queue.pop_first()?;
        self.now = self.now.max(at);
        Some(happening)
    }

    pub(crate) fn open(&mut self, seller: SellerNumber) -> StreamId {
        self.numbered += 1;
        let stream = StreamId(self.numbered);
        let link = Link {
            seller,
            up_clear_at: self.now,
            down_clear_at: self.now,
            broken: false,
        };
        self.links.insert(stream, link);
        stream
    }

    /// The provider at the other end of a stream.
    pub(crate) fn seller_of(&self, stream: StreamId) -> Option<SellerNumber> {
        self.links.get(&stream).map(|link| link.seller)
    }

    /// Sends something to a provider.
    pub(crate) fn send_up(&mut self, stream: StreamId, what: Up) {
        let delay_ms = self.random.below(self.delay_ms_max) + 1;
        let Some(link) = self.links.get_mut(&stream).filter(|link| !link.broken) else {
            return;
        };
        let at = self.now.plus_ms(delay_ms).max(link.up_clear_at);
        link.up_clear_at = at;
        self.at(at, Happening::Up(stream, what));
    }

    /// Sends something to the payer.
    pub(crate) fn send_down(&mut self, stream: StreamId, what: Down) {
        let delay_ms = self.random.below(self.delay_ms_max) + 1;
        let Some(link) = self.links.get_mut(&stream).filter(|link| !link.broken) else {
            return;
        };
        let at = self.now.plus_ms(delay_ms).max(link.down_clear_at);
        link.down_clear_at = at;
        self.at(at, Happening::Down(stream, what));
    }

    /// Breaks a stream: what is under way may arrive, and nothing that is sent later.
    pub(crate) fn break_stream(&mut self, stream: StreamId) {
        self.send_up(stream, Up::Broken);
        self.send_down(stream, Down::Closed { garbage: false });
        if let Some(link) = self.links.get_mut(&stream) {
            link.broken = true;
        }
    }

    /// The streams that are open.
    pub(crate) fn open_streams(&self) -> Vec<StreamId> {
        let open = self.links.iter().filter(|(_, link)| !link.broken);
        open.map(|(stream, _)| *stream).collect()
    }

    pub(crate) fn is_away(&self) -> bool {
        self.stalled || self.reach != Reach::Works
    }

    /// What a node sees of a channel, if it sees the chain.
    pub(crate) fn look(&mut self, channel: ChannelId) -> Option<(OnchainState, Sight)> {
        // No two questions are asked at the very same time.
        self.now = self.now.plus_ms(1);
        let asked_at = self.now;
        let (state, block_at) = match self.reach {
            Reach::Works => self.chain.shown(channel),
            Reach::Dead => return None,
            Reach::StuckSince(then) => self.chain.shown_until(channel, then),
        };
        let block_at = Some(block_at);
        Some((state, Sight { asked_at, block_at }))
    }

    /// The chain is within reach again.
    pub(crate) fn heal(&mut self) {
        if self.is_away() {
            self.turned_at = self.now;
            self.say(format_args!("the chain is within reach again"));
        }
        (self.reach, self.stalled) = (Reach::Works, false);
    }

    /// The chain goes out of reach, in one of three ways.
    pub(crate) fn go_away(&mut self) {
        let since_ms = self.now.ms_since(self.turned_at);
        if self.is_away() || since_ms < WITHIN_REACH_MS {
            return;
        }
        self.turned_at = self.now;
        match self.random.below(3) {
            0 => self.stalled = true,
            1 => self.reach = Reach::Dead,
            _ => self.reach = Reach::StuckSince(self.now),
        }
        let (reach, stalled) = (self.reach, self.stalled);
        self.say(format_args!(
            "the chain goes out of reach: {reach:?}, stalled {stalled}"
        ));
    }
}
