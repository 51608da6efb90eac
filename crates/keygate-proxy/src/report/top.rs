//! Who calls most. A request counts into a slot of its thread, behind a lock that nobody else wants; once a
//! second all slots are emptied into the windows. What is told is of this process, and in memory only.

use std::hash::RandomState;
use std::mem::swap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keygate_core::cells::{thread_number, thread_places};
use keygate_core::top::{Ended, Slot, TopList, TopQuery, Windows};
use keygate_core::{Code, UnixMillis};
use quanta::Instant;
use tokio::time::sleep;

use crate::context::Context;

const A_SECOND: Duration = Duration::from_secs(1);

/// Counts who calls most, in bounded memory; or nothing, as by default. Cheap to clone; all clones are the
/// same.
#[derive(Clone, Default)]
pub struct TopKeys(Option<Arc<Counting>>);

struct Counting {
    /// Each thread's. Less than 1 MiB each, and none until it is used.
    slots: Box<[ThreadSlot]>,
    windows: Mutex<Windows>,
    began: Instant,
    hasher: RandomState,
}

/// Apart from its neighbours in the processor's caches.
#[repr(align(128))]
struct ThreadSlot(Mutex<Slot>);

impl TopKeys {
    /// Counts from now on. Needs [`run`](Self::run) to tell.
    #[must_use]
    pub fn counting() -> Self {
        let hasher = RandomState::new();
        let slot = || ThreadSlot(Mutex::new(Slot::new(&hasher)));
        let slots = (0..thread_places()).map(|_| slot()).collect();
        let windows = Mutex::new(Windows::new(hasher.clone()));
        Self(Some(Arc::new(Counting { slots, windows, began: Instant::now(), hasher })))
    }

    /// Empties the threads' slots once a second, for ever.
    pub async fn run(self, clock: fn() -> UnixMillis) {
        let Some(counting) = self.0 else { return };
        let (mut second, mut taken) = (Slot::new(&counting.hasher), Slot::new(&counting.hasher));
        loop {
            let into_second = counting.began.elapsed().subsec_nanos();
            sleep(A_SECOND.saturating_sub(Duration::from_nanos(into_second.into()))).await;
            for slot in &counting.slots {
                // For no longer than this is a request's thread kept waiting.
                swap(&mut *slot.lock(), &mut taken);
                second.merge(&taken);
                taken.clear();
            }
            counting.windows().add(&second, counting.began.elapsed(), clock());
            second.clear();
        }
    }

    /// Those at the top, as of the last whole second.
    #[must_use]
    pub fn list(&self, query: TopQuery) -> TopList {
        self.0.as_ref().map(|counting| counting.windows().list(query)).unwrap_or_default()
    }

    pub(super) fn ended(&self, ctx: &Context) {
        let Some(counting) = &self.0 else { return };
        let (story, admitted) = (&ctx.story, &ctx.admitted);
        let key = match admitted {
            Some(admitted) => admitted.permit.key(),
            None => story.refused.as_deref(),
        };
        // One that was admitted has a code if it failed.
        let refused = story.code.filter(|_| admitted.is_none());
        let bytes = story.bytes_in.saturating_add(story.bytes_out);
        counting.count(Ended { key, client: story.client, refused, bytes });
    }

    pub(super) fn head_refused(&self, client: Option<IpAddr>, code: Code) {
        let Some(counting) = &self.0 else { return };
        counting.count(Ended { key: None, client, refused: Some(code), bytes: 0 });
    }
}

impl Counting {
    #[inline]
    fn count(&self, request: Ended<'_>) {
        if let Some(slot) = self.slots.get(thread_number() % self.slots.len()) {
            slot.lock().count(request);
        }
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadSlot {
    #[inline]
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
