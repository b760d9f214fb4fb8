//! What goes wrong: crashes, cut links, a chain out of reach, undone blocks, owners who need their machines; and blocks and
//! epochs, which go on.

use alloy_primitives::B256;
use hearth_protocol::run::committee::RunSeat;
use hearth_protocol::run::trainer::TrainerEvent;

use super::chain::Epoch;
use super::scene::{Moment, Place};
use super::validator::Candor;
use super::world::{Cheats, TrainingWorld};
use crate::invariant::Broken;

/// Milliseconds between two blocks at most.
const BLOCK_MS: u64 = 5_000;

impl TrainingWorld {
    /// A device crashes before it performs an effect, now and then.
    pub(super) fn may_crash(&mut self, place: Place) {
        if !self.is_calm && self.crash_one_in > 0 && self.scene.random.one_in(self.crash_one_in) {
            let back_ms = self.scene.random.between(200, 25_000);
            self.crash(place, back_ms);
        }
    }

    fn crash(&mut self, place: Place, back_ms: u64) {
        if !self.devices[place].is_up {
            return;
        }
        self.scene.note(format_args!("{place} crashes"));
        self.tally.crashes += 1;
        self.devices[place].is_up = false;
        self.scene.after(back_ms, Moment::Starts(place));
    }

    /// A device starts, and learns again what the chain and the others keep.
    pub(super) fn start(&mut self, place: Place) -> Result<(), Broken> {
        if self.devices[place].is_up {
            return Ok(());
        }
        self.scene.note(format_args!("{place} starts"));
        let device = &mut self.devices[place];
        device.is_up = true;
        device.life += 1;
        (device.told, device.epochs_told) = (0, 0);
        device.hears = false;
        let life = device.life;
        match self.seat(place) {
            Some(number) => self.validators[number].restart(),
            None => self.trainers[place].restart(),
        }
        self.scene.within(10, 900, Moment::Tick(place, life));
        if self.seat(place).is_none() && self.trainers[place].is_paused {
            self.trainer_event(place, TrainerEvent::Paused(true))?;
        }
        Ok(())
    }

    /// Something goes wrong.
    pub(super) fn fault(&mut self) -> Result<(), Broken> {
        if self.is_calm {
            return Ok(());
        }
        self.scene.within(500, 12_000, Moment::Fault);
        let place = self.scene.random.index(self.devices.len());
        match self.scene.random.below(16) {
            0 | 1 => {
                let back_ms = self.scene.random.between(200, 20_000);
                self.crash(place, back_ms);
            }
            2 => {
                // Away for long, and back.
                let back_ms = self.scene.random.between(60_000, 300_000);
                self.crash(place, back_ms);
            }
            3..=5 if self.bus.is_linked(place) => {
                self.scene.note(format_args!("{place} loses its link"));
                self.tally.cuts += 1;
                self.bus.cut(place);
                let back_ms = self.scene.random.pick(&[3_000, 20_000, 90_000]);
                self.scene.within(1, back_ms, Moment::LinkBack(place));
            }
            6 => {
                self.scene
                    .note(format_args!("{place} sees the chain no more"));
                self.devices[place].sees_chain = false;
                self.scene.within(1_000, 60_000, Moment::ChainBack(place));
            }
            7 | 8 => {
                let number = self.scene.random.index(self.trainers.len());
                if !self.trainers[number].is_paused {
                    self.tally.pauses += 1;
                    self.scene.within(500, 60_000, Moment::Free(number));
                    self.pause(number, true)?;
                }
            }
            9 => {
                let ms = self.scene.random.between(5_000, 60_000);
                self.scene.note(format_args!("the chain makes no blocks"));
                self.stalled_until = self.scene.now.plus_ms(ms);
            }
            10 | 11 => {
                self.scene.note(format_args!("blocks are undone"));
                self.tally.undone += 1;
                self.chain.undo(&mut self.scene.random);
            }
            _ => {}
        }
        Ok(())
    }

    /// The chain makes a block, and an epoch may begin.
    pub(super) fn block(&mut self) -> Result<(), Broken> {
        self.scene.within(1_500, BLOCK_MS, Moment::Block);
        if self.scene.now < self.stalled_until {
            return Ok(());
        }
        if self.scene.now >= self.next_epoch_at {
            self.elect();
        }
        let finals = self.chain.mine(&mut self.scene.random, self.scene.now);
        for _ in 0..finals {
            self.check_record()?;
        }
        Ok(())
    }

    /// An epoch begins: who validates is fixed.
    pub(super) fn elect(&mut self) {
        let number = self.chain.epochs.last().map_or(3, |epoch| epoch.number + 1);
        let in_ms = self.scene.random.between(60_000, 400_000);
        self.next_epoch_at = self.scene.now.plus_ms(in_ms);
        let beacon: B256 =
            (*blake3::hash(&self.scene.random.number().to_le_bytes()).as_bytes()).into();
        let absent: Vec<bool> = self
            .validators
            .iter()
            .map(|_| self.scene.random.one_in(8))
            .collect();
        let mut seats: Vec<(RunSeat, bool)> = Vec::new();
        for (side, is_absent) in self.validators.iter().zip(absent) {
            let is_honest = side.candor == Candor::Honest;
            if !is_absent {
                seats.push((side.seat, is_honest));
            }
        }
        if !seats.iter().any(|(_, is_honest)| *is_honest) {
            let honest = self.validators.iter();
            let mut honest = honest.filter(|side| side.candor == Candor::Honest);
            match honest.next() {
                Some(side) => seats.push((side.seat, true)),
                None => self.reform(&mut seats),
            }
        }
        // Those that lie are fewer than the invariants allow for.
        while self.lie_too_much(&seats)
            && let Some(place) = seats.iter().position(|(_, is_honest)| !is_honest)
        {
            seats.remove(place);
        }
        let names: Vec<Place> = (0..self.devices.len())
            .filter(|place| {
                let id = self.devices[*place].id;
                seats.iter().any(|(seat, _)| seat.device == id)
            })
            .collect();
        self.scene
            .note(format_args!("epoch {number}: {names:?} validate"));
        self.chain.epochs.push(Epoch {
            number,
            beacon,
            seats: seats.into_iter().map(|(seat, _)| seat).collect(),
        });
    }

    /// Where all lie, one is made honest.
    fn reform(&mut self, seats: &mut Vec<(RunSeat, bool)>) {
        let place = self.trainers.len();
        self.devices[place].is_honest = true;
        let side = &mut self.validators[0];
        side.candor = Candor::Honest;
        let seat = side.seat;
        seats.retain(|(other, _)| other.device != seat.device);
        seats.push((seat, true));
    }

    fn lie_too_much(&self, seats: &[(RunSeat, bool)]) -> bool {
        let plain: Vec<_> = seats.iter().map(|(seat, _)| seat.seat).collect();
        let set = hearth_protocol::ledger::draw::committee(B256::ZERO, self.rules.run, &plain);
        let lying = seats.iter().enumerate();
        let mask = lying
            .filter(|(_, (_, is_honest))| !is_honest)
            .fold(0, |mask, (place, _)| mask | 1 << place);
        let weight = set.weight_of(mask, &plain);
        match self.cheats {
            Cheats::Many => weight * 3 >= set.total * 2,
            Cheats::Few | Cheats::Nobody => weight * 3 >= set.total,
        }
    }

    /// Nothing goes wrong from now on.
    pub(super) fn calm(&mut self) -> Result<(), Broken> {
        self.is_calm = true;
        self.scene.note(format_args!("nothing goes wrong any more"));
        self.stalled_until = self.scene.now;
        for place in 0..self.devices.len() {
            self.devices[place].sees_chain = true;
            self.bus.join(&mut self.scene, place);
            self.start(place)?;
        }
        for place in 0..self.trainers.len() {
            self.pause(place, false)?;
        }
        Ok(())
    }
}
