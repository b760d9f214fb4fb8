//! The scheduler under random loads: what must hold after every step.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use proptest::prelude::*;

fn capacity(slots: u32, queue: u32) -> Capacity {
    Capacity {
        slots,
        queue,
        batch_tokens: 256,
        forgets_ends: true,
        on_grid: false,
    }
}

/// The same on a graphics processor.
fn grid(slots: u32, queue: u32) -> Capacity {
    Capacity {
        on_grid: true,
        ..capacity(slots, queue)
    }
}

fn work(id: u64, name: u64, prompt: u32, output_max: u32) -> Work {
    Work {
        id: WorkId(id),
        asker: Asker::Household { name },
        prompt: (0..prompt).map(|token| token % 7).collect(),
        output_max,
        allowance: u32::MAX,
        reuse: true,
    }
}

/// The same for a stranger.
fn strange(id: u64, site: u64, device: u64, output_max: u32) -> Work {
    Work {
        asker: Asker::Stranger { site, device },
        ..work(id, 0, 5, output_max)
    }
}

/// An engine without a model: it does what the plans say, and checks that they can be done.
struct World {
    scheduler: Scheduler,
    capacity: Capacity,
    /// The tokens that are in the cache, by slot.
    cache: BTreeMap<u32, Vec<u32>>,
    written: BTreeMap<WorkId, u32>,
    /// The prompt of work and what was written after it.
    ids: BTreeMap<WorkId, Vec<u32>>,
    /// The length of the prompt alone.
    prompts: BTreeMap<WorkId, usize>,
    output_max: BTreeMap<WorkId, u32>,
    ended: Vec<WorkId>,
    /// The pieces of prompts that were computed for work: where each began, and its rows.
    pieces: BTreeMap<WorkId, Vec<(u32, usize)>>,
}

impl World {
    fn new(capacity: Capacity) -> Self {
        Self {
            scheduler: Scheduler::new(capacity),
            capacity,
            cache: BTreeMap::new(),
            written: BTreeMap::new(),
            ids: BTreeMap::new(),
            prompts: BTreeMap::new(),
            output_max: BTreeMap::new(),
            ended: Vec::new(),
            pieces: BTreeMap::new(),
        }
    }

    fn ask(&mut self, work: Work) -> Result<u32, Full> {
        let (id, output_max) = (work.id, work.output_max);
        let prompt = work.prompt.clone();
        let taken = self.scheduler.enqueue(work)?;
        self.prompts.insert(id, prompt.len());
        self.ids.insert(id, prompt);
        self.output_max.insert(id, output_max);
        self.written.insert(id, 0);
        assert!(self.scheduler.waiting() <= self.capacity.queue + self.capacity.slots);
        Ok(taken)
    }

    fn end(&mut self, id: WorkId) {
        self.scheduler.end(id);
        self.output_max.remove(&id);
    }

    /// One round; gives what was computed.
    fn step(&mut self) -> Vec<Part> {
        let plan = self.scheduler.plan();
        for step in plan.prepare {
            match step {
                Prepare::Forget { slot, position } => {
                    let cache = self.cache.entry(slot).or_default();
                    cache.truncate(position as usize);
                }
                Prepare::Share { from, to, tokens } => {
                    let shared = self.cache[&from][..tokens as usize].to_vec();
                    self.cache.insert(to, shared);
                }
            }
        }
        let at = |cache: &BTreeMap<u32, Vec<u32>>, slot| cache.get(&slot).map_or(0, Vec::len);
        let (Some(first), Some(last)) = (plan.written.first(), plan.written.last()) else {
            assert!(plan.fillers.is_empty(), "fillers only fill gaps");
            return self.compute(plan.pieces);
        };
        let mut rows: Vec<u32> = plan.fillers.iter().map(|filler| filler.slot).collect();
        for filler in &plan.fillers {
            let computed = at(&self.cache, filler.slot);
            assert_eq!(
                computed, filler.position as usize,
                "it goes where nothing is"
            );
        }
        rows.extend(plan.written.iter().map(|part| part.slot));
        rows.sort_unstable();
        let whole: Vec<u32> = (first.slot..=last.slot).collect();
        assert_eq!(rows, whole, "one row for each slot, and no gap");
        let mut done = self.compute(plan.written);
        done.extend(self.compute(plan.pieces));
        done
    }

    fn compute(&mut self, parts: Vec<Part>) -> Vec<Part> {
        let mut slots = BTreeSet::new();
        let rows: usize = parts.iter().map(|part| part.tokens.len()).sum();
        assert!(rows <= self.capacity.batch_tokens as usize);
        for part in &parts {
            assert!(slots.insert(part.slot), "a slot has one part of a step");
            let cache = self.cache.entry(part.slot).or_default();
            assert_eq!(cache.len(), part.position as usize, "no gap, no overlap");
            let ids = &self.ids[&part.work][cache.len()..];
            assert!(
                ids.starts_with(&part.tokens),
                "what was asked and written, in its order"
            );
            assert!(
                !part.chooses || ids.len() == part.tokens.len(),
                "nothing is chosen twice"
            );
            let is_written = part.position as usize >= self.prompts[&part.work];
            assert_eq!(
                is_written, part.written,
                "what was written is computed as it was written"
            );
            cache.extend(&part.tokens);
            if !part.written {
                let pieces = self.pieces.entry(part.work).or_default();
                pieces.push((part.position, part.tokens.len()));
            }
        }
        self.scheduler.computed(&parts);
        for part in &parts {
            if part.chooses {
                self.choose(part.work);
            }
        }
        parts
    }

    fn choose(&mut self, id: WorkId) {
        let written = self.written.get_mut(&id).unwrap();
        *written += 1;
        if *written == self.output_max[&id] {
            self.end(id);
            self.ended.push(id);
        } else {
            self.scheduler.wrote(id, 1_000 + *written);
            self.ids.entry(id).or_default().push(1_000 + *written);
        }
    }

    fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            self.step();
        }
    }
}

#[test]
fn a_prompt_is_read_and_then_written_on() {
    let mut world = World::new(capacity(2, 4));
    assert_eq!(world.ask(work(1, 1, 300, 3)), Ok(0));
    let parts: Vec<_> = (0..5).flat_map(|_| world.step()).collect();
    let shape: Vec<_> = parts
        .iter()
        .map(|part| (part.position, part.tokens.len(), part.chooses))
        .collect();
    assert_eq!(
        shape,
        [
            (0, 236, false),
            (236, 64, true),
            (300, 1, true),
            (301, 1, true)
        ]
    );
    assert_eq!(world.ended, [WorkId(1)]);
    assert_eq!(world.scheduler.busy(), 0);
}

#[test]
fn a_long_prompt_does_not_stop_who_writes() {
    let mut world = World::new(capacity(2, 4));
    world.ask(work(1, 1, 10, 100)).unwrap();
    world.step();
    world.ask(work(2, 2, 3_000, 5)).unwrap();
    for _ in 0..20 {
        let batch = world.step();
        assert!(
            batch
                .iter()
                .any(|part| part.work == WorkId(1) && part.written)
        );
        let rows: usize = batch.iter().map(|part| part.tokens.len()).sum();
        assert!(rows <= 1 + BESIDE_TOKENS as usize);
    }
}

#[test]
fn owners_take_turns() {
    let mut world = World::new(capacity(1, 20));
    for id in 0..10 {
        world.ask(work(id, 1, 5, 1)).unwrap();
    }
    world.ask(work(100, 2, 5, 1)).unwrap();
    world.run(3);
    assert!(world.ended.contains(&WorkId(100)), "{:?}", world.ended);
}

#[test]
fn a_full_queue_takes_nothing() {
    let mut world = World::new(capacity(1, 2));
    for id in 0..3 {
        assert_eq!(world.ask(work(id, id, 5, 9)), Ok(id as u32));
    }
    assert_eq!(world.ask(work(3, 3, 5, 9)), Err(Full { before: 3 }));
    world.step();
    assert_eq!(world.ask(work(3, 3, 5, 9)), Err(Full { before: 3 }));
    world.end(WorkId(1));
    assert_eq!(world.ask(work(4, 3, 5, 9)), Ok(2));
}

#[test]
fn one_that_asks_without_end_leaves_room_for_others_who_are_served_in_turn() {
    let mut world = World::new(capacity(4, 128));
    let taken = (0..1_000).take_while(|id| world.ask(work(*id, 1, 5, 1)).is_ok());
    assert_eq!(taken.count(), 4 + 96, "all but the last quarter");
    for owner in 2..34 {
        world.ask(work(1_000 + owner, owner, 5, 1)).unwrap();
        let again = world.ask(work(2_000 + owner, owner, 5, 1));
        assert!(
            again.is_err(),
            "only one who has nothing waiting gets these places"
        );
    }
    assert!(
        world.ask(work(3_000, 40, 5, 1)).is_err(),
        "the queue has an end"
    );
    // Whoever came last is not behind all that the first had asked before.
    let others = |world: &World| world.ended.iter().filter(|id| id.0 >= 1_000).count();
    for _ in 0..400 {
        if others(&world) < 32 {
            world.run(1);
        }
    }
    assert_eq!(others(&world), 32, "{:?}", world.ended);
    assert!(world.ended.len() <= 4 + 32 + 8, "{:?}", world.ended);
}

#[test]
fn strangers_with_free_keys_leave_places_for_other_sites_and_for_the_household() {
    let mut world = World::new(capacity(4, 128));
    let mut id = 0;
    let mut fill = |world: &mut World, site: u64| {
        let taken = (0..1_000).filter(|device| {
            id += 1;
            world.ask(strange(id, site, *device, 9)).is_ok()
        });
        taken.count()
    };
    // All four slots, and half of the strangers' 96 places.
    assert_eq!(fill(&mut world, 1), 4 + 48);
    assert_eq!(
        fill(&mut world, 2),
        48,
        "the places of another site are there"
    );
    assert_eq!(fill(&mut world, 3), 0, "all strangers together have an end");
    for count in 0..32 {
        let asked = world.ask(work(10_000 + count, count, 5, 1));
        assert!(asked.is_ok(), "the household's place {count}");
    }
    // The household waits for none of them.
    world.run(2);
    assert!(world.ended.contains(&WorkId(10_000)), "{:?}", world.ended);
    let household = |world: &World| world.ended.iter().filter(|id| id.0 >= 10_000).count();
    for _ in 0..400 {
        if household(&world) < 32 {
            world.run(1);
        }
    }
    assert_eq!(household(&world), 32);
    assert!(world.scheduler.waiting() > 0, "strangers wait meanwhile");
}

#[test]
fn one_stranger_without_end_leaves_room_for_others_of_its_site() {
    let mut world = World::new(capacity(4, 128));
    let taken = (0..1_000).filter(|id| world.ask(strange(*id, 1, 1, 9)).is_ok());
    assert_eq!(taken.count(), 4 + 36);
    assert!(world.ask(strange(2_000, 1, 2, 9)).is_ok());
}

#[test]
fn the_household_is_served_at_once_and_who_made_room_goes_on_where_it_was() {
    let mut world = World::new(capacity(4, 128));
    for id in 0..4 {
        world.ask(strange(id, id, id, 40)).unwrap();
    }
    world.run(10);
    assert_eq!(world.scheduler.busy(), 4, "strangers have every slot");
    let before = world.written.clone();
    world.ask(work(1_000, 1, 5, 3)).unwrap();
    world.run(3);
    assert_eq!(world.ended, [WorkId(1_000)]);
    let stood: Vec<_> = (0..4)
        .filter(|id| world.written[&WorkId(*id)] == before[&WorkId(*id)])
        .collect();
    assert_eq!(stood.len(), 1, "one of the four made room");
    world.run(60);
    world.ended.sort_unstable();
    assert_eq!(world.ended[..4], [0, 1, 2, 3].map(WorkId));
    assert!((0..4).all(|id| world.written[&WorkId(id)] == 40));
}

#[test]
fn no_more_than_the_households_share_is_taken_from_strangers() {
    let mut world = World::new(capacity(8, 128));
    for id in 0..8 {
        world.ask(strange(id, id, id, 400)).unwrap();
    }
    world.run(5);
    for id in 1_000..1_008 {
        world.ask(work(id, id, 5, 400)).unwrap();
    }
    world.run(50);
    let at_work = |id: u64| {
        world
            .written
            .get(&WorkId(id))
            .is_some_and(|written| *written > 40)
    };
    assert_eq!((0..8).filter(|id| at_work(*id)).count(), 6);
    assert_eq!((1_000..1_008).filter(|id| at_work(*id)).count(), 2);
}

#[test]
fn many_keys_at_one_site_get_the_turns_of_one() {
    let mut world = World::new(capacity(1, 128));
    for device in 0..40 {
        world.ask(strange(device, 1, device, 1)).unwrap();
    }
    world.ask(strange(1_000, 2, 1_000, 1)).unwrap();
    world.ask(strange(1_001, 3, 1_001, 1)).unwrap();
    world.run(5);
    for id in [1_000, 1_001] {
        assert!(world.ended.contains(&WorkId(id)), "{:?}", world.ended);
    }
}

#[test]
fn the_household_and_strangers_take_turns() {
    let mut world = World::new(capacity(1, 128));
    for device in 0..40 {
        world.ask(strange(device, device, device, 1)).unwrap();
    }
    for id in 1_000..1_004 {
        world.ask(work(id, 1, 5, 1)).unwrap();
    }
    world.run(9);
    let household = world.ended.iter().filter(|id| id.0 >= 1_000).count();
    assert_eq!(household, 4, "{:?}", world.ended);
    assert!(
        world.ended.len() > 4,
        "strangers have turns: {:?}",
        world.ended
    );
}

#[test]
fn what_was_read_is_read_once() {
    let mut world = World::new(capacity(2, 4));
    world.ask(work(1, 1, 500, 2)).unwrap();
    world.run(8);
    let mut longer = work(2, 1, 600, 1);
    longer.prompt[550] = 99;
    world.ask(longer).unwrap();
    let first = world.step().remove(0);
    // 500 were remembered, and 64 rows remain to be computed at least.
    assert_eq!((first.position, first.tokens.len()), (500, 100));
    world.run(4);
    world.ask(work(3, 1, 500, 1)).unwrap();
    assert_eq!(world.step()[0].position, 436);
}

#[test]
fn on_a_graphics_processor_whole_pieces_are_reused() {
    let mut world = World::new(grid(2, 4));
    world.ask(work(1, 1, 600, 2)).unwrap();
    world.run(8);
    assert_eq!(world.pieces[&WorkId(1)], [(0, 256), (256, 256), (512, 88)]);
    // The last piece was none of the whole ones, and the next prompt differs within the second.
    let mut other = work(2, 1, 700, 2);
    other.prompt[300] = 99;
    world.ask(other).unwrap();
    world.run(8);
    assert_eq!(world.pieces[&WorkId(2)], [(256, 256), (512, 188)]);
    // A prompt that was read to its end reads its last piece again.
    world.ask(work(3, 1, 512, 1)).unwrap();
    world.run(8);
    assert_eq!(world.pieces[&WorkId(3)], [(256, 256)]);
}

#[test]
fn who_may_not_write_holds_its_place_and_computes_nothing() {
    let mut world = World::new(capacity(1, 4));
    let mut paid = work(1, 1, 10, 10);
    paid.allowance = 2;
    world.ask(paid).unwrap();
    world.run(5);
    assert_eq!(world.written[&WorkId(1)], 2);
    assert!(world.step().is_empty());
    assert_eq!(world.scheduler.busy(), 1);
    world.scheduler.allow(WorkId(1), 4);
    world.scheduler.allow(WorkId(1), 3);
    world.run(5);
    assert_eq!(world.written[&WorkId(1)], 4);
}

#[test]
fn who_remembers_the_beginning_goes_on_where_it_is_and_keeps_what_others_may_need() {
    let mut world = World::new(capacity(2, 4));
    world.ask(work(1, 1, 200, 2)).unwrap();
    world.run(8);
    // Most of what slot 0 remembers is of use: nothing is copied.
    world.ask(work(2, 1, 300, 2)).unwrap();
    let part = world.step().remove(0);
    assert_eq!((part.slot, part.position), (0, 200));
    world.run(8);
    // Little of it is: it stays, and its beginning is copied.
    let mut other = work(3, 1, 300, 2);
    other.prompt[100] = 99;
    world.ask(other).unwrap();
    let part = world.step().remove(0);
    assert_eq!((part.slot, part.position), (1, 100));
    world.run(8);
    world.ask(work(4, 1, 400, 2)).unwrap();
    let part = world.step().remove(0);
    assert_eq!((part.slot, part.position), (0, 300));
}

#[test]
fn a_gap_between_two_that_write_is_filled() {
    let mut world = World::new(capacity(3, 4));
    for id in 1..4 {
        world.ask(work(id, id, 10, 50)).unwrap();
    }
    world.run(3);
    world.end(WorkId(2));
    let plan = world.scheduler.plan();
    let fillers: Vec<_> = plan.fillers.iter().map(|filler| filler.slot).collect();
    assert_eq!(fillers, [1]);
    assert_eq!(plan.written.len(), 2);
}

#[derive(Debug, Clone)]
enum Act {
    Ask {
        owner: u64,
        prompt: u32,
        output: u32,
        paid: bool,
    },
    Cancel(u64),
    Allow(u64),
    Steps(u32),
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..6u64, 1..700u32, 1..300u32, any::<bool>())
            .prop_map(|(owner, prompt, output, paid)| Act::Ask { owner, prompt, output, paid }),
        1 => (0..60u64).prop_map(Act::Cancel),
        1 => (0..60u64).prop_map(Act::Allow),
        3 => (1..60u32).prop_map(Act::Steps),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_all_that_is_paid_for_ends(
        acts in prop::collection::vec(any_act(), 1..60),
        slots in 1..5u32,
        on_grid in any::<bool>(),
    ) {
        let mut world = World::new(Capacity { on_grid, ..capacity(slots, 8) });
        let (mut last, mut living) = (0, BTreeSet::new());
        for act in acts {
            match act {
                Act::Ask { owner, prompt, output, paid } => {
                    last += 1;
                    let mut work = work(last, owner, prompt, output);
                    if owner >= 2 {
                        let (site, device) = (owner / 3, owner);
                        work.asker = Asker::Stranger { site, device };
                    }
                    work.allowance = if paid { u32::MAX } else { 1 };
                    if world.ask(work).is_ok() {
                        living.insert(WorkId(last));
                    }
                }
                Act::Cancel(id) => {
                    world.end(WorkId(id));
                    living.remove(&WorkId(id));
                }
                Act::Allow(id) => world.scheduler.allow(WorkId(id), u32::MAX),
                Act::Steps(count) => world.run(count),
            }
        }
        for id in &living {
            world.scheduler.allow(*id, u32::MAX);
        }
        for _ in 0..100_000 {
            if world.scheduler.busy() == 0 && world.scheduler.waiting() == 0 {
                break;
            }
            world.step();
        }
        prop_assert_eq!((world.scheduler.busy(), world.scheduler.waiting()), (0, 0));
        for id in living {
            prop_assert!(world.ended.contains(&id), "{:?} never ended", id);
        }
        // On the grid, where a prompt is cut depends on nothing but the prompt.
        let pieces = world.pieces.values().flatten().filter(|_| on_grid);
        for (position, rows) in pieces {
            prop_assert_eq!(position % GRID_TOKENS, 0);
            prop_assert!(*rows <= GRID_TOKENS as usize);
        }
    }
}
