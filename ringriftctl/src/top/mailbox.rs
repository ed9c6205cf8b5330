//! News on their way to the loop of `top`: a queue with a bound. While the terminal takes nothing (Ctrl-S, a stopped ssh) the
//! loop stands still, and so after a while does whoever has news for it: the daemon drops what that one does not read, and says
//! how much. A newer picture takes the place of an older one that nobody has looked at; everything else keeps its order.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::types::News;

/// News that wait at most. A picture of all units is among them once only.
pub const NEWS_MAX: usize = 64;

/// The loop listens no more: the program ends.
#[derive(Debug)]
pub struct Over;

#[derive(Debug, Default)]
struct Queue {
    news: VecDeque<News>,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    came: Condvar,
    left: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end for whoever has news.
#[derive(Debug, Clone)]
pub struct Sender(Arc<Shared>);

/// The loop's end.
#[derive(Debug)]
pub struct Receiver(Arc<Shared>);

/// A queue with both its ends.
pub fn mailbox() -> (Sender, Receiver) {
    let shared = Arc::<Shared>::default();
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

/// `newer` says all that `older` says.
fn replaces(newer: &News, older: &News) -> bool {
    match (newer, older) {
        (News::Status { .. }, News::Status { .. }) | (News::Edges(_), News::Edges(_)) => true,
        (News::Detail(newer), News::Detail(older)) => newer.name == older.name,
        _ => false,
    }
}

impl Sender {
    /// Puts it behind all that waits; where there is no room, once there is.
    pub fn send(&self, news: News) -> Result<(), Over> {
        let mut queue = self.0.lock();
        loop {
            if queue.is_over {
                return Err(Over);
            }
            queue.news.retain(|older| !replaces(&news, older));
            if queue.news.len() < NEWS_MAX {
                break;
            }
            queue = self.0.left.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.news.push_back(news);
        self.0.came.notify_one();
        Ok(())
    }
}

impl Receiver {
    /// All that waits, the oldest first; nothing when nothing comes for so long.
    pub fn take(&self, patience: Duration) -> VecDeque<News> {
        let queue = self.0.lock();
        let (mut queue, _) = self
            .0
            .came
            .wait_timeout_while(queue, patience, |queue| queue.news.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let news = std::mem::take(&mut queue.news);
        self.0.left.notify_all();
        news
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_over = true;
        queue.news.clear();
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proto::reply::Summary;

    use super::*;
    use crate::overview::tests::node;

    /// Longer than any machine stands still.
    const LONG: Duration = Duration::from_secs(120);

    fn picture(taken_us: u64) -> News {
        News::Status {
            node: Box::new(node(Summary::default())),
            units: Vec::new(),
            taken_us,
        }
    }

    fn word(n: usize) -> News {
        News::Lost(n.to_string())
    }

    /// What came, in words.
    fn words(news: impl IntoIterator<Item = News>) -> Vec<String> {
        let word = |news| match news {
            News::Lost(word) => word,
            News::Status { taken_us, .. } => format!("picture {taken_us}"),
            other => format!("{other:?}"),
        };
        news.into_iter().map(word).collect()
    }

    #[test]
    fn while_nobody_looks_the_queue_is_bounded_and_then_all_of_it_comes_in_order_with_the_newest_picture() {
        let (sender, receiver) = mailbox();
        let (tell, told) = mpsc::channel();
        const WORDS: usize = 10 * NEWS_MAX;
        let teller = std::thread::spawn(move || {
            for n in 0..WORDS {
                if n % 3 == 0 {
                    sender.send(picture(n as u64)).expect("somebody listens");
                }
                sender.send(word(n)).expect("somebody listens");
                tell.send(n).expect("somebody counts");
            }
            sender.send(picture(WORDS as u64)).expect("somebody listens");
        });
        // It comes no further than the bound: that many words have gone in once the queue is full, and none after them.
        while receiver.0.lock().news.len() < NEWS_MAX {
            told.recv_timeout(LONG)
                .expect("it goes on until there is no room");
        }
        let waits = words(receiver.take(LONG));
        assert_eq!(waits.len(), NEWS_MAX);
        assert_eq!(waits.iter().filter(|word| word.starts_with("picture")).count(), 1);
        let mut all = waits;
        while all.last().is_none_or(|last| *last != format!("picture {WORDS}")) {
            let more = words(receiver.take(LONG));
            assert!((1..=NEWS_MAX).contains(&more.len()), "{} at once", more.len());
            all.extend(more);
        }
        teller.join().expect("it is through");
        let (pictures, rest): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|word| word.starts_with("picture"));
        let expected: Vec<String> = (0..WORDS).map(|n| n.to_string()).collect();
        assert_eq!(rest, expected);
        let number = |picture: &String| picture["picture ".len()..].parse::<usize>().expect("a number");
        assert!(pictures.iter().is_sorted_by_key(number), "{pictures:?}");
    }

    #[test]
    fn a_newer_picture_needs_no_room() {
        let (sender, receiver) = mailbox();
        sender.send(picture(1)).expect("somebody listens");
        for n in 1..NEWS_MAX {
            sender.send(word(n)).expect("somebody listens");
        }
        // It is full, and this does not wait.
        sender.send(picture(2)).expect("somebody listens");
        let came = words(receiver.take(LONG));
        assert_eq!((came.len(), came[0].as_str()), (NEWS_MAX, "1"));
        assert_eq!(came.last().map(String::as_str), Some("picture 2"));
    }

    #[test]
    fn whoever_waits_for_room_hears_of_the_end() {
        let (sender, receiver) = mailbox();
        for n in 0..NEWS_MAX {
            sender.send(word(n)).expect("somebody listens");
        }
        let waits = std::thread::spawn(move || sender.send(word(0)));
        drop(receiver);
        waits.join().expect("it ends").expect_err("nobody listens");
    }
}
