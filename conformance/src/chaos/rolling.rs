//! A rolling restart under load: every edge is told to go, one after the other, and started again. Its clients are told
//! when to come again, and must come then: spread, as the advice was, and no later.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::faults::{Fault, Happened, Scene};
use super::report::{Report, Spread};
use super::{ChaosError, DRAIN};

/// How long a client that comes when it was told to may take until it is joined.
const LATE: Duration = Duration::from_secs(5);
/// How long each edge is left alone before it is its turn, so that clients have come to it.
const SETTLE: Duration = Duration::from_secs(8);
/// Advice of so few clients says nothing about how it was spread.
const FEW: usize = 20;

/// One round over all edges, and then only load until `end`.
pub(super) async fn run(
    scene: &mut Scene<'_>,
    end: Instant,
    report: &mut Report,
    tell: &mut impl FnMut(&Happened),
) -> (Vec<Happened>, Option<String>) {
    let mut happened = Vec::new();
    for index in 0..scene.edges.nodes.len() {
        sleep(SETTLE).await;
        match restart(scene, index, report).await {
            Ok(done) => {
                tell(&done);
                happened.push(done);
            }
            Err(error) => return (happened, Some(format!("restart of edge {index}: {error}"))),
        }
    }
    tokio::time::sleep_until(end).await;
    (happened, None)
}

async fn restart(scene: &mut Scene<'_>, index: usize, report: &mut Report) -> Result<Happened, ChaosError> {
    let (at, begun) = (scene.begin.elapsed(), Instant::now());
    let board = &scene.stage.board;
    board.take_longest_stall();
    board.take_returns();
    let (errors, clients) = (board.error_count(), board.clients_at(index));
    let node = &mut scene.edges.nodes[index];
    node.drain(DRAIN * 3).await?;
    node.start().await?;
    let lasted = begun.elapsed();
    let (ready, whole, replicated) = scene.recovered().await?;
    // Who was told last may have been told to come at the end of the window.
    sleep((DRAIN + LATE).saturating_sub(begun.elapsed())).await;

    let came = board.take_returns();
    let spread = Spread::of(index, clients, &came, begun);
    if came.len() >= FEW && !spread.is_wide(DRAIN) {
        report.timing.push(format!("the advice of edge {index} is not spread over {DRAIN:?}: {spread}"));
    }
    if let Some(late) = came.iter().find(|came| came.after > came.hint + LATE) {
        report.timing.push(format!(
            "a client that was told to come back to another edge after {:?} was joined after {:?}",
            late.hint, late.after
        ));
    }
    report.spreads.push(spread);
    let stall = board.take_longest_stall();
    let errors = board.error_count() - errors;
    let whom = format!("edge {index}");
    Ok(Happened { fault: Fault::DrainEdge, whom, at, lasted, stall, errors, ready, whole, replicated })
}
