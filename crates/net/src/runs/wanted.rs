//! Which notices were asked for, of whom, and who else has them.

use std::collections::BTreeMap;

use hearth_protocol::content::ContentHash;
use hearth_protocol::time::Timestamp;

use super::link::LinkId;
use super::notice::TopicId;
use crate::limits::{RUN_WANT_MS_MAX, RUN_WANTED_MAX};

/// Others that have a notice, of which so many are remembered.
const OTHERS_MAX: usize = 4;

type Named = (TopicId, ContentHash);

#[derive(Debug)]
struct Asked {
    link: LinkId,
    at: Timestamp,
    others: Vec<LinkId>,
}

/// The notices that are being asked for. Each link has room of its own, so that one that offers what does not exist
/// keeps nobody from offering what does.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    asked: BTreeMap<Named, Asked>,
    of_links: BTreeMap<LinkId, usize>,
}

impl Wanted {
    /// A link has a notice that is lacking; says whether it is to be asked for it now.
    pub(super) fn offered(&mut self, now: Timestamp, link: LinkId, named: Named) -> bool {
        if let Some(asked) = self.asked.get_mut(&named) {
            let is_new = asked.link != link && !asked.others.contains(&link);
            if is_new && asked.others.len() < OTHERS_MAX {
                asked.others.push(link);
            }
            return false;
        }
        let of_link = self.of_links.entry(link).or_default();
        if *of_link >= RUN_WANTED_MAX {
            return false;
        }
        *of_link += 1;
        let asked = Asked {
            link,
            at: now,
            others: Vec::new(),
        };
        self.asked.insert(named, asked);
        true
    }

    /// A notice came; says which links have it too.
    pub(super) fn came(&mut self, named: &Named) -> Vec<LinkId> {
        let Some(asked) = self.asked.remove(named) else {
            return Vec::new();
        };
        release(&mut self.of_links, asked.link);
        let mut have_it = asked.others;
        have_it.push(asked.link);
        have_it
    }

    /// Asks for nothing of a topic any longer.
    pub(super) fn leave(&mut self, topic: TopicId) {
        let of_links = &mut self.of_links;
        self.asked.retain(|(of, _), asked| {
            if *of == topic {
                release(of_links, asked.link);
            }
            *of != topic
        });
    }

    /// Which links are to be asked now, because the one that was asked is gone or sent nothing in time.
    pub(super) fn overdue(
        &mut self,
        now: Timestamp,
        is_up: impl Fn(LinkId) -> bool,
    ) -> Vec<(LinkId, Named)> {
        let mut again = Vec::new();
        let of_links = &mut self.of_links;
        self.asked.retain(|named, asked| {
            if is_up(asked.link) && now.ms_since(asked.at) < RUN_WANT_MS_MAX {
                return true;
            }
            release(of_links, asked.link);
            while let Some(link) = asked.others.pop() {
                let of_link = of_links.entry(link).or_default();
                if is_up(link) && *of_link < RUN_WANTED_MAX {
                    *of_link += 1;
                    asked.link = link;
                    asked.at = now;
                    again.push((link, *named));
                    return true;
                }
            }
            false
        });
        self.of_links.retain(|_, count| *count > 0);
        again
    }
}

fn release(of_links: &mut BTreeMap<LinkId, usize>, link: LinkId) {
    if let Some(count) = of_links.get_mut(&link) {
        *count = count.saturating_sub(1);
    }
}
