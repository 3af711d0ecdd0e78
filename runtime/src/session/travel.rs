//! Back and forth in a sequence: copies of its states, files of them, cuts, and replay.

use super::history::{History, Keep};
use super::states::{Snapshot, beyond};
use super::{Feed, Saved, Session, Wanted};
use crate::error::{Error, Result};
use std::path::Path;

impl Session {
    /// Makes a slot that of a sequence that has seen nothing.
    pub fn reset(&mut self, slot: usize) -> Result<()> {
        self.states.reset(&self.artifact.manifest, &mut *self.engine, slot)?;
        self.begin_history(slot, None);
        Ok(())
    }

    /// A copy of a slot's states.
    pub fn snapshot(&self, slot: usize) -> Result<Snapshot> {
        self.states.snapshot(&self.artifact.manifest, &*self.engine, slot)
    }

    /// Makes a slot's states those of a snapshot, of any slot of any session of the same model. What follows is then the same to the bit.
    ///
    /// # Errors
    /// A snapshot of another model; one of more positions than the capacity.
    pub fn restore(&mut self, slot: usize, snapshot: &Snapshot) -> Result<()> {
        self.states.restore(&self.artifact.manifest, &mut *self.engine, slot, snapshot)?;
        self.begin_history(slot, Some(snapshot));
        Ok(())
    }

    /// Makes slot `to` a copy of slot `from`, its history included: two continuations of one beginning.
    pub fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        let snapshot = self.snapshot(from)?;
        self.states.restore(&self.artifact.manifest, &mut *self.engine, to, &snapshot)?;
        self.histories[to] = self.histories[from].clone();
        Ok(())
    }

    /// Writes a slot's states to a file, with what the caller knows of the text: its `ids`, and the `logits` of the last row. Both may be
    /// empty.
    pub fn save(&self, slot: usize, path: &Path, ids: &[i32], logits: &[f32]) -> Result<()> {
        let saved = Saved { snapshot: self.snapshot(slot)?, ids: ids.to_vec(), logits: logits.to_vec() };
        saved.write(path, &self.artifact.manifest, &self.weights)
    }

    /// Restores what [`Session::save`] wrote, perhaps in another process, for another slot or capacity.
    pub fn load(&mut self, slot: usize, path: &Path) -> Result<Saved> {
        let saved = Saved::read(path, &self.artifact.manifest, &self.weights)?;
        self.restore(slot, &saved.snapshot)?;
        Ok(saved)
    }

    /// Takes a slot back to an earlier position at once, if its states allow it: caches of keys and values do, those of a window by
    /// a few hundred positions, recurrences and convolutions do not ([`crate::artifact::Truncate`]).
    ///
    /// # Errors
    /// A position that is still to come, or a state that forgets; nothing is changed then.
    pub fn truncate(&mut self, slot: usize, position: usize) -> Result<()> {
        self.states.truncate(&self.artifact.manifest, &mut *self.engine, slot, position)?;
        self.cut_history(slot, position)
    }

    fn cut_history(&mut self, slot: usize, position: usize) -> Result<()> {
        if let Some(history) = &mut self.histories[slot] {
            match position < history.begin() {
                true => self.histories[slot] = Some(History::new(history.keep(), Some(self.snapshot(slot)?))),
                false => history.cut(position),
            }
        }
        Ok(())
    }

    /// Feeds `tokens` in the place of all that a slot has seen from `position` on; cheaper than [`Session::truncate`] and
    /// [`Session::forward`] if they reach as far.
    ///
    /// # Errors
    /// A state that forgets, if anything of it is to stay.
    pub fn replace(&mut self, slot: usize, position: usize, tokens: &[i32], wanted: Wanted) -> Result<&[f32]> {
        let before = self.position(slot)?;
        let end = position + tokens.len();
        self.states.rewind(&self.artifact.manifest, &mut *self.engine, slot, position, end)?;
        let feeds = [Feed::new(slot, tokens, wanted)];
        if let Err(error) = self.cut_history(slot, position).and_then(|()| self.forward(&feeds).map(drop)) {
            // Nothing was stored, so what the slot held is still whole.
            self.states.seek(slot, before);
            return Err(error);
        }
        Ok(self.logits())
    }

    /// From here on, keeps what a slot is fed, and snapshots, so that [`Session::rollback`] can go back to any position from the present one on.
    pub fn keep_history(&mut self, slot: usize, keep: Keep) -> Result<()> {
        let start = if self.position(slot)? == 0 { None } else { Some(self.snapshot(slot)?) };
        self.histories[slot] = Some(History::new(Keep { every: keep.every.max(1), ..keep }, start));
        Ok(())
    }

    /// Takes a slot back to an earlier position: by [`Session::truncate`] where that is possible, and otherwise by the last snapshot before
    /// and the calls that came between. The states are then those of a sequence that was fed in the same calls, but not beyond.
    ///
    /// # Errors
    /// A position that is still to come or before the history's first; a slot without history whose states cannot be truncated.
    pub fn rollback(&mut self, slot: usize, position: usize) -> Result<()> {
        let now = self.position(slot)?;
        if position > now {
            return Err(beyond(slot, position, now));
        }
        if self.artifact.manifest.truncates(now, position).is_ok() {
            return self.truncate(slot, position);
        }
        let hint = "call `keep_history` before, or restore a snapshot";
        let history = self.histories[slot].take();
        let mut history = history.ok_or_else(|| Error::input(format!("slot {slot} keeps no history to go back in"), hint))?;
        let done = if position < history.begin() {
            Err(Error::input(
                format!("position {position} is before the history of slot {slot}, which begins at {}", history.begin()),
                hint,
            ))
        } else {
            self.replay(slot, &history, position)
        };
        if done.is_ok() {
            history.cut(position);
        }
        self.histories[slot] = Some(history);
        done
    }

    fn replay(&mut self, slot: usize, history: &History, position: usize) -> Result<()> {
        match history.before(position) {
            Some(snapshot) => self.states.restore(&self.artifact.manifest, &mut *self.engine, slot, snapshot)?,
            None => self.states.reset(&self.artifact.manifest, &mut *self.engine, slot)?,
        }
        for tokens in history.calls(self.position(slot)?, position) {
            let feeds = [Feed::new(slot, tokens, Wanted::None)];
            self.encode(&feeds)?;
            self.call(&feeds)?;
        }
        Ok(())
    }

    fn begin_history(&mut self, slot: usize, start: Option<&Snapshot>) {
        if let Some(history) = &mut self.histories[slot] {
            history.restart(start.filter(|snapshot| snapshot.position() > 0).cloned());
        }
    }

    /// Writes a call into a slot's history, if it has one.
    pub(super) fn note(&mut self, feed: &Feed) -> Result<()> {
        if self.histories[feed.slot].as_mut().is_some_and(|history| history.fed(feed.tokens)) {
            let snapshot = self.snapshot(feed.slot)?;
            self.histories[feed.slot].iter_mut().for_each(|history| history.push(snapshot.clone()));
        }
        Ok(())
    }
}
