//! The word that the server ends, as everything that waits for a client hears it.

use tokio::sync::watch;

/// Says once that the server ends. Dropped, it says so too.
#[derive(Debug)]
pub struct Closer(watch::Sender<bool>);

/// Hears that the server ends. Clones hear the same word.
#[derive(Clone, Debug)]
pub struct Closing(watch::Receiver<bool>);

/// A server that runs, and the word for its end.
pub fn channel() -> (Closer, Closing) {
    let (sender, receiver) = watch::channel(false);
    (Closer(sender), Closing(receiver))
}

impl Closer {
    pub fn close(&self) {
        self.0.send_replace(true);
    }
}

impl Closing {
    /// Returns when the server ends; at once if it does already.
    pub async fn closed(&mut self) {
        // An error means that the closer is gone, and with it whoever runs the server.
        let _ = self.0.wait_for(|&closed| closed).await;
    }

    pub fn is_closed(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_hears_it_also_when_the_closer_is_dropped() {
        let (closer, closing) = channel();
        let (mut early, mut late) = (closing.clone(), closing.clone());
        assert!(!closing.is_closed());
        let waiting = tokio::spawn(async move { early.closed().await });
        closer.close();
        waiting.await.unwrap();
        late.closed().await;
        assert!(closing.is_closed());

        let (closer, mut closing) = channel();
        drop(closer);
        closing.closed().await;
        assert!(closing.is_closed());
    }
}
