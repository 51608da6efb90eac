//! The points between which a process may be killed, for tests to look at what is left there.

/// Nothing, but in tests.
#[cfg(not(test))]
pub(super) const fn pass() {}

#[cfg(test)]
pub(super) use watched::{pass, watch};

#[cfg(test)]
mod watched {
    use std::cell::RefCell;

    type Look = Box<dyn FnMut()>;

    thread_local! {
        static LOOK: RefCell<Option<Look>> = const { RefCell::new(None) };
    }

    /// Has this look at what is there whenever this thread passes a point, while `work` is done.
    pub(in crate::usage) fn watch<T>(look: impl FnMut() + 'static, work: impl FnOnce() -> T) -> T {
        LOOK.set(Some(Box::new(look)));
        let done = work();
        LOOK.set(None);
        done
    }

    pub(in crate::usage) fn pass() {
        if let Some(mut look) = LOOK.take() {
            look();
            LOOK.set(Some(look));
        }
    }
}
