//! When a container that has ended is started again, as Docker does it.

use std::time::Duration;

use crate::containers::RestartPolicy;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// Who ran so long is taken to have started well.
const HEALTHY: Duration = Duration::from_secs(10);

/// The policy's memory.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    pub(super) count: u32,
    delay: Duration,
}

impl Restarts {
    /// The pause before the next start, or `None` for no more. `ran`: how long it had run.
    pub(super) fn next(&mut self, policy: &RestartPolicy, code: i32, ran: Duration) -> Option<Duration> {
        let wanted = match policy.name.as_str() {
            "always" | "unless-stopped" => true,
            "on-failure" => {
                code != 0 && (policy.maximum_retry_count == 0 || self.count < policy.maximum_retry_count)
            }
            _ => false,
        };
        if !wanted {
            return None;
        }
        self.delay =
            if ran >= HEALTHY || self.delay.is_zero() { FIRST } else { (self.delay * 2).min(LONGEST) };
        self.count += 1;
        Some(self.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> RestartPolicy {
        text.parse().unwrap()
    }

    #[test]
    fn three_tries_are_three() {
        let (mut r, p) = (Restarts::default(), policy("on-failure:3"));
        let pauses: Vec<_> =
            std::iter::from_fn(|| r.next(&p, 1, Duration::ZERO)).map(|d| d.as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400]);
        assert_eq!(Restarts::default().next(&p, 0, Duration::ZERO), None);
        assert_eq!(Restarts::default().next(&policy("no"), 1, Duration::ZERO), None);
    }

    #[test]
    fn pauses_grow_to_a_minute_and_start_anew() {
        let (mut r, p) = (Restarts::default(), policy("always"));
        for _ in 0..20 {
            r.next(&p, 0, Duration::ZERO);
        }
        assert_eq!(r.next(&p, 0, Duration::ZERO), Some(LONGEST));
        assert_eq!(r.next(&p, 0, HEALTHY), Some(FIRST));
    }
}
