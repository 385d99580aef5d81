use std::pin::pin;
use std::task::Poll;

use futures_util::poll;
use tokio::time::{Instant, timeout_at};

/// What a call answers until some moment; `None`: nothing. A call that answers at once needs no timer, and nobody has to ask what time it is.
pub(crate) async fn until<F: Future>(moment: impl FnOnce() -> Instant, call: F) -> Option<F::Output> {
    let mut call = pin!(call);
    match poll!(call.as_mut()) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => timeout_at(moment(), call).await.ok(),
    }
}
