//! An undo stack: what to do so that a failed change leaves no trace.
//!
//! Owns the order (last done, first undone) and the collecting of errors. Knows nothing of what the steps do.

use crate::error::HostError;

type Step<C> = Box<dyn FnOnce(&mut C) -> Result<(), HostError>>;

/// Steps back, pushed as the steps forward succeed. `C` is what they all work on.
///
/// Dropping it forgets the steps: the change is kept.
pub(crate) struct Undo<C> {
    steps: Vec<Step<C>>,
}

impl<C> Undo<C> {
    pub(crate) fn new() -> Self {
        Self { steps: Vec::new() }
    }

    /// Remembers how to undo what has just been done.
    pub(crate) fn push(&mut self, step: impl FnOnce(&mut C) -> Result<(), HostError> + 'static) {
        self.steps.push(Box::new(step));
    }

    /// Undoes everything, in reverse, going on past errors. Returns `cause`, or, when something could not be undone,
    /// [`HostError::UndoIncomplete`] with the reasons.
    pub(crate) fn roll_back(self, context: &mut C, cause: HostError) -> HostError {
        let left: Vec<_> = self.steps.into_iter().rev().filter_map(|step| step(context).err()).collect();
        if left.is_empty() { cause } else { HostError::UndoIncomplete { cause: Box::new(cause), left } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoes_in_reverse_and_returns_the_cause() {
        let mut undo = Undo::new();
        for step in 0..3 {
            undo.push(move |done: &mut Vec<i32>| {
                done.push(step);
                Ok(())
            });
        }
        let mut done = Vec::new();
        assert!(matches!(undo.roll_back(&mut done, HostError::OwnNamespace), HostError::OwnNamespace));
        assert_eq!(done, [2, 1, 0]);
    }

    #[test]
    fn goes_on_past_errors_and_reports_them() {
        let mut undo = Undo::new();
        undo.push(|done: &mut Vec<i32>| {
            done.push(0);
            Ok(())
        });
        undo.push(|_: &mut Vec<i32>| Err(HostError::NoSuchProcess { pid: 7 }));
        let mut done = Vec::new();
        let error = undo.roll_back(&mut done, HostError::OwnNamespace);
        let HostError::UndoIncomplete { cause, left } = error else { panic!("{error}") };
        assert!(matches!(*cause, HostError::OwnNamespace));
        assert!(matches!(left[..], [HostError::NoSuchProcess { pid: 7 }]));
        assert_eq!(done, [0]);
    }
}
