//! Every way in which a power loss may leave a storage, one after the other: for small logs.

use std::sync::{Arc, Mutex};

use super::image::FileImage;
use super::{MemStorage, State, lock};

/// All that a power loss may leave; see [`MemStorage::crash_every_way`].
#[derive(Debug)]
pub struct EverySurvival {
    crashed: MemStorage,
    path: Path,
    is_done: bool,
}

/// Choices that were made, each with how many there were: the last one that can go on is the next to change.
#[derive(Debug, Default)]
struct Path {
    choices: Vec<(usize, usize)>,
    at: usize,
}

impl Path {
    /// The next choice of so many.
    fn choose(&mut self, of: usize) -> usize {
        if self.at == self.choices.len() {
            self.choices.push((0, of));
        }
        self.at += 1;
        self.choices[self.at - 1].0
    }

    /// On to the next path; `false` after the last.
    fn go_on(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, of)) = self.choices.pop() {
            if choice + 1 < of {
                self.choices.push((choice + 1, of));
                return true;
            }
        }
        false
    }
}

impl MemStorage {
    /// Cuts the power, as [`MemStorage::crash`] does, and gives every storage that may be left: each subset of the unsynced
    /// changes of names, each unsynced sector in each of its states. They are as many as the product of all these.
    #[must_use]
    pub fn crash_every_way(&self) -> EverySurvival {
        lock(&self.state).powered_off = true;
        self.resumed.notify_all();
        EverySurvival {
            crashed: self.clone(),
            path: Path::default(),
            is_done: false,
        }
    }
}

impl Iterator for EverySurvival {
    type Item = MemStorage;

    fn next(&mut self) -> Option<MemStorage> {
        if self.is_done {
            return None;
        }
        let path = &mut self.path;
        let state = lock(&self.crashed.state);
        let mut survivor = State {
            capacity: state.capacity,
            ..State::default()
        };
        for (name, image) in state.surviving_names(|| path.choose(2) == 1) {
            let left = lock(&image).surviving_as(|states| path.choose(states));
            survivor.put(name, FileImage::synced(left));
        }
        self.is_done = !path.go_on();
        Some(MemStorage {
            state: Arc::new(Mutex::new(survivor)),
            resumed: Arc::default(),
        })
    }
}
