//! What the owner's commands ask of runs and rewards.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hearth_api::runs::{
    ExportRun, FundRun, FundingOrder, JoinRun, MakeRun, ReplayWork, VerifyModel, WhichRun,
};
use http::StatusCode;

use super::admin::{Admin, not_done, refused};
use crate::runs::Runs;

/// The routes of runs and rewards.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/hearth/runs", get(list))
        .route("/hearth/runs/make", post(make))
        .route("/hearth/runs/join", post(join))
        .route("/hearth/runs/leave", post(leave))
        .route("/hearth/runs/show", get(show))
        .route("/hearth/runs/funding", post(funding))
        .route("/hearth/runs/fund/plan", post(plan_funding))
        .route("/hearth/runs/fund", post(fund))
        .route("/hearth/runs/export", post(export))
        .route("/hearth/runs/replay", post(replay))
        .route("/hearth/runs/verify", post(verify))
        .route("/hearth/rewards", get(rewards))
        .route("/hearth/rewards/claim", post(claim))
}

fn runs(admin: &Admin) -> Result<&Runs, Box<Response>> {
    let missing = || {
        let message = "this node follows no ledger: it uses a chain without one, or none that answers. With the \
                       network's own chain, start the node again once the device that runs it is up";
        Box::new(refused(StatusCode::CONFLICT, "no_ledger", message))
    };
    admin.runs.get().ok_or_else(missing)
}

async fn list(State(admin): State<Arc<Admin>>) -> Response {
    match runs(&admin).map(Runs::list) {
        Ok(Ok(views)) => Json(views).into_response(),
        Ok(Err(error)) => not_done(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Err(response) => *response,
    }
}

async fn make(State(admin): State<Arc<Admin>>, Json(asked): Json<MakeRun>) -> Response {
    let runs = match runs(&admin) {
        Ok(runs) => runs,
        Err(response) => return *response,
    };
    match runs.make(asked).await {
        Ok(view) => Json(view).into_response(),
        Err(error) => not_done(StatusCode::BAD_REQUEST, &error),
    }
}

async fn join(State(admin): State<Arc<Admin>>, Json(asked): Json<JoinRun>) -> Response {
    match runs(&admin).map(|runs| runs.join(&asked)) {
        Ok(Ok(view)) => Json(view).into_response(),
        Ok(Err(error)) => not_done(StatusCode::BAD_REQUEST, &error),
        Err(response) => *response,
    }
}

async fn leave(State(admin): State<Arc<Admin>>, Json(which): Json<WhichRun>) -> Response {
    match runs(&admin).map(|runs| runs.leave(&which.run)) {
        Ok(Ok(view)) => Json(view).into_response(),
        Ok(Err(error)) => not_done(StatusCode::NOT_FOUND, &error),
        Err(response) => *response,
    }
}

async fn show(State(admin): State<Arc<Admin>>, Query(which): Query<WhichRun>) -> Response {
    let runs = match runs(&admin) {
        Ok(runs) => runs,
        Err(response) => return *response,
    };
    match runs.show(&which.run) {
        Ok(mut detail) => {
            // A run is shown without them where it takes no pledges, and where the chain is away.
            detail.funding = runs.funding(&detail.run.run).await.ok();
            Json(detail).into_response()
        }
        Err(error) => not_done(StatusCode::NOT_FOUND, &error),
    }
}

async fn funding(State(admin): State<Arc<Admin>>, Json(which): Json<WhichRun>) -> Response {
    let runs = match runs(&admin) {
        Ok(runs) => runs,
        Err(response) => return *response,
    };
    match runs.funding(&which.run).await {
        Ok(view) => Json(view).into_response(),
        Err(error) => not_done(StatusCode::NOT_FOUND, &error),
    }
}

async fn plan_funding(
    State(admin): State<Arc<Admin>>,
    Json(asked): Json<FundingOrder>,
) -> Response {
    let runs = match runs(&admin) {
        Ok(runs) => runs,
        Err(response) => return *response,
    };
    match runs.plan_funding(&asked).await {
        Ok(plan) => Json(plan).into_response(),
        Err(error) => not_done(StatusCode::CONFLICT, &error),
    }
}

async fn fund(State(admin): State<Arc<Admin>>, Json(asked): Json<FundRun>) -> Response {
    let runs = match runs(&admin) {
        Ok(runs) => runs,
        Err(response) => return *response,
    };
    match runs.fund(&asked).await {
        Ok(done) => Json(done).into_response(),
        Err(error) => not_done(StatusCode::CONFLICT, &error),
    }
}

async fn export(State(admin): State<Arc<Admin>>, Json(asked): Json<ExportRun>) -> Response {
    let runs = match runs(&admin) {
        Ok(runs) => runs,
        Err(response) => return *response,
    };
    match runs.export(asked).await {
        Ok(exported) => Json(exported).into_response(),
        Err(error) => not_done(StatusCode::CONFLICT, &error),
    }
}

async fn replay(State(admin): State<Arc<Admin>>, Json(asked): Json<ReplayWork>) -> Response {
    let runs = match runs(&admin) {
        Ok(runs) => runs,
        Err(response) => return *response,
    };
    match runs.replay(&asked).await {
        Ok(replayed) => Json(replayed).into_response(),
        Err(error) => not_done(StatusCode::CONFLICT, &error),
    }
}

async fn verify(State(admin): State<Arc<Admin>>, Json(asked): Json<VerifyModel>) -> Response {
    let runs = match runs(&admin) {
        Ok(runs) => runs,
        Err(response) => return *response,
    };
    match runs.verify(&asked).await {
        Ok(checks) => Json(checks).into_response(),
        Err(error) => not_done(StatusCode::NOT_FOUND, &error),
    }
}

async fn rewards(State(admin): State<Arc<Admin>>) -> Response {
    let runs = match runs(&admin) {
        Ok(runs) => runs,
        Err(response) => return *response,
    };
    match runs.rewards().await {
        Ok(view) => Json(view).into_response(),
        Err(error) => not_done(StatusCode::BAD_GATEWAY, &error),
    }
}

async fn claim(State(admin): State<Arc<Admin>>) -> Response {
    let runs = match runs(&admin) {
        Ok(runs) => runs,
        Err(response) => return *response,
    };
    match runs.claim().await {
        Ok(claimed) => Json(claimed).into_response(),
        Err(error) => not_done(StatusCode::CONFLICT, &error),
    }
}
