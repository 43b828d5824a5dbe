//! Where what is known comes from: one connection that hears what the broker announces, and asks for the rest by calls
//! that cost it little. It is made again when it is lost.

use super::model::Update;
use portbroker_client::watch::{Change, Changes, Watch};
use portbroker_client::{Broker, Error};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// Between two tries to reach a broker that is away.
const RETRY: Duration = Duration::from_millis(500);
/// So often everything is asked for: an announcement that did not come is made good then.
const EVERYTHING: Duration = Duration::from_secs(60);
/// Asking takes no more than one part in so many of the time, however much there is.
const SHARE: u32 = 50;
/// But not more seldom than so, also on a machine on which everything takes long.
const LONGEST: Duration = Duration::from_secs(5);
/// So many listeners that were handed over are asked for at a time.
const HANDED: usize = 50;

/// What to do, and how often.
pub(crate) struct Feed {
    pub(crate) broker: Broker,
    pub(crate) updates: mpsc::Sender<Update>,
    pub(crate) interval: Duration,
    /// Everything is to be asked for now.
    pub(crate) again: Notify,
}

/// What the broker does not know, being of an earlier version, or does not tell us, is not asked for twice.
struct Questions {
    queues: bool,
    events: bool,
    destinations: bool,
    /// The number of the last event.
    last: u64,
}

impl Default for Questions {
    fn default() -> Self {
        Self { queues: true, events: true, destinations: true, last: 0 }
    }
}

/// The broker is gone: why.
type End = String;
/// Of what is to be asked for.
type Names = RefCell<BTreeSet<String>>;

impl Feed {
    /// For ever.
    pub(crate) async fn run(&self) -> ! {
        loop {
            let why = match self.broker.watch().await {
                Ok((watch, changes)) => self.follow(&watch, changes).await,
                Err(error) => error.to_string(),
            };
            let _ = self.updates.send(Update::Lost(why)).await;
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow(&self, watch: &Watch, mut changes: Changes) -> End {
        let (pools, handed) = (Names::default(), Names::default());
        let hear = async {
            while let Some(change) = changes.next().await {
                match &change {
                    Change::Pool(name) => drop(pools.borrow_mut().insert(name.clone())),
                    Change::Listener(of) if of.holders.iter().any(|holder| holder.ends_with(']')) => {
                        handed.borrow_mut().insert(of.name.clone());
                    }
                    _ => {}
                }
                let _ = self.updates.send(Update::Changed(change)).await;
            }
            "its connection ended".to_owned()
        };
        tokio::select! {
            why = hear => why,
            why = self.ask(watch, &pools, &handed) => why,
        }
    }

    async fn ask(&self, watch: &Watch, pools: &Names, handed: &Names) -> End {
        let mut questions = Questions::default();
        let mut everything = Instant::now();
        loop {
            let begun = Instant::now();
            if everything <= begun {
                everything = begun + EVERYTHING;
                match watch.status().await {
                    Ok(status) => {
                        *pools.borrow_mut() = status.pools.iter().map(|pool| pool.name.clone()).collect();
                        let _ = self.updates.send(Update::Snapshot(Box::new(status))).await;
                    }
                    Err(error) => return error.to_string(),
                }
            } else {
                let asked = self.ask_for_pools(watch, pools).await;
                if let Err(why) = asked.and(self.ask_for_handed(watch, handed).await) {
                    return why;
                }
            }
            match questions.ask(watch).await {
                Ok(updates) => {
                    for update in updates {
                        let _ = self.updates.send(update).await;
                    }
                }
                Err(why) => return why,
            }
            let pause = self.interval.max((begun.elapsed() * SHARE).min(LONGEST));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.again.notified() => everything = Instant::now(),
            }
        }
    }

    /// A process that was handed a listener runs another program soon: `portbroker exec` does.
    async fn ask_for_handed(&self, watch: &Watch, handed: &Names) -> Result<(), End> {
        // The borrow ends here, before anything is waited for.
        let names = std::mem::take(&mut *handed.borrow_mut());
        for name in names.into_iter().take(HANDED) {
            let listener = watch.listener(&name).await.map_err(|error| error.to_string())?;
            if let Some(listener) = listener {
                let _ = self.updates.send(Update::Listener(Box::new(listener))).await;
            }
        }
        Ok(())
    }

    async fn ask_for_pools(&self, watch: &Watch, pools: &Names) -> Result<(), End> {
        let names: Vec<String> = pools.borrow().iter().cloned().collect();
        for name in names {
            let pool = watch.pool(&name).await.map_err(|error| error.to_string())?;
            if pool.is_none() {
                pools.borrow_mut().remove(&name);
            }
            let _ = self.updates.send(Update::Pool(name, pool.map(Box::new))).await;
        }
        Ok(())
    }
}

impl Questions {
    async fn ask(&mut self, watch: &Watch) -> Result<Vec<Update>, End> {
        let mut updates = Vec::new();
        if self.queues
            && let Some(queues) = known(watch.queues().await, &mut self.queues)?
        {
            updates.push(Update::Queues(queues));
        }
        if self.destinations
            && let Some(destinations) = known(watch.forecasts().await, &mut self.destinations)?
        {
            updates.push(Update::Destinations(destinations));
        }
        if self.events {
            match known(watch.events(self.last).await, &mut self.events)? {
                Some(events) => {
                    self.last = events.last().map_or(self.last, |event| event.number);
                    updates.push(Update::Events(events));
                }
                None => updates.push(Update::NoEvents),
            }
        }
        Ok(updates)
    }
}

/// Everything once, for a picture.
pub(crate) async fn look(broker: &Broker) -> Result<Vec<Update>, Error> {
    let (watch, _changes) = broker.watch().await?;
    let status = watch.status().await?;
    let mut updates = vec![Update::Snapshot(Box::new(status))];
    match Questions::default().ask(&watch).await {
        Ok(more) => updates.extend(more),
        Err(tried) => return Err(Error::NotReachable { tried }),
    }
    Ok(updates)
}

/// An answer; `None`, and no more question, where the broker has none for us.
fn known<T>(answer: Result<T, Error>, asks: &mut bool) -> Result<Option<T>, End> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error @ Error::NotReachable { .. }) => Err(error.to_string()),
        Err(_) => {
            *asks = false;
            Ok(None)
        }
    }
}
