//! Doing the same for many shards, several at once.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::Error;

/// Shards at once. What is done for each waits for the device more than for a core, so it is not the number of cores.
const AT_ONCE: usize = 8;

/// Does `job` for each item; gives the results in the items' order.
///
/// # Errors
/// The first by the items' order. After one, nothing more is begun, and what was begun has ended when this returns.
pub(super) async fn for_each<I, T, F>(
    runtime: &Handle,
    items: impl IntoIterator<Item = I>,
    job: impl Fn(I) -> F,
) -> Result<Vec<T>, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let tasks: Vec<_> = items
        .into_iter()
        .map(|item| {
            let (work, places) = (job(item), places.clone());
            runtime.spawn(async move {
                let _place = places.acquire().await.ok()?;
                let done = work.await;
                if done.is_err() {
                    places.close();
                }
                Some(done)
            })
        })
        .collect();
    let mut all = Ok(Vec::with_capacity(tasks.len()));
    for task in tasks {
        // A panic has been printed where it happened; `None` was not begun, because of an error.
        let done = task.await.unwrap_or(Some(Err(Error::Closed)));
        match (&mut all, done) {
            (Ok(all), Some(Ok(done))) => all.push(done),
            (Ok(_), Some(Err(error))) => all = Err(error),
            (Ok(_), None) | (Err(_), _) => {}
        }
    }
    all
}
