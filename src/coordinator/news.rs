//! What a journal asks and what it tells, where it is not in the proxy itself.

use super::{Callout, Coordinator, Counter, Host, ownership};
use crate::journal::{Fate, Journal, News};
use crate::planted::{Planted, planted};
use crate::saga::{AttemptResult, Millis};

impl<J: Journal> Coordinator<J> {
    /// Makes the calls that the journal wants made by now. To be called after everything else of a turn, so that what is
    /// due together goes out together; and before a callback ends. A call that the proxy refuses is due again later at the earliest, so this ends.
    pub fn settle(&mut self, host: &mut impl Host) {
        let now = host.now();
        while let Some(call) = self.journal.next_call(now) {
            match host.ask(&call) {
                Ok(token) => {
                    self.callouts.insert(token, Callout::Journal(call.number));
                }
                Err(refusal) => {
                    let news = self.journal.call_ended(call.number, &AttemptResult::NotSent(refusal), now);
                    self.hear(host, news, now);
                }
            }
        }
        self.breadcrumb.take_away(host);
    }

    pub(super) fn journal_answered(&mut self, host: &mut impl Host, number: u64, result: &AttemptResult) {
        let now = host.now();
        self.journal.offer_room(self.room.free(host));
        let news = self.journal.call_ended(number, result, now);
        self.hear(host, news, now);
    }

    /// Does what follows from news.
    pub(super) fn hear(&mut self, host: &mut impl Host, news: News, now: Millis) {
        for Fate { saga, sequence, acknowledgement } in news.fates {
            let Some(key) = self.keys.get(&saga).copied() else { continue };
            self.leave_crumb(host, key, None, "what the journal has written");
            if let Some(event) = self.acknowledged(host, key, sequence, acknowledgement) {
                let actions = self.handle(host, key, event, now);
                self.run(host, key, actions, now);
            }
        }
        if !news.lost.is_empty() {
            self.lost(host, &news.lost);
        }
        for orphan in news.orphans {
            self.resume(host, orphan, now);
        }
        for (saga, why) in news.left_alone {
            log::warn!("{saga} is left to a module that can read it: {why}");
            if !planted(Planted::LeftAloneNotCounted) {
                host.count(Counter::LeftAlone);
            }
        }
        for (saga, why) in news.quarantined {
            ownership::quarantined(host, &saga, &why);
        }
    }
}
