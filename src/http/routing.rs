//! Routes with an exact path.

use actix_web::body::BoxBody;
use actix_web::guard::GuardContext;
use actix_web::http::header::{self, HeaderName};
use actix_web::http::{Method, StatusCode};
use actix_web::{FromRequest, Handler, HttpRequest, Resource, Responder, guard, web};

use super::response::{PLAIN_TEXT, response};

/// Makes a handler of a function that needs the state of its service.
pub(super) fn with<T: Clone + 'static, F>(
    state: &T,
    answer: impl Fn(HttpRequest, T) -> F + Clone + 'static,
) -> impl Fn(HttpRequest) -> F + Clone + 'static {
    let state = state.clone();
    move |request| answer(request, state.clone())
}

/// Makes a route at exactly this path. The framework also matches paths that decode to it.
pub(super) fn exactly(path: &'static str) -> Resource {
    web::resource(path).guard(guard::fn_guard(move |context| context.head().uri.path() == path))
}

/// Makes a route that answers GET and HEAD. The framework removes the body of a response to HEAD.
pub(super) fn resource<F, Args>(path: &'static str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder<Body = BoxBody> + 'static,
{
    const ALLOW: (HeaderName, &str) = (header::ALLOW, "GET, HEAD, OPTIONS");
    exactly(path)
        .route(web::route().guard(guard::fn_guard(reads)).to(handler))
        .route(
            web::method(Method::OPTIONS)
                .to(|| async { response(StatusCode::NO_CONTENT).insert_header(ALLOW).finish() }),
        )
        .default_service(web::to(|| async {
            response(StatusCode::METHOD_NOT_ALLOWED)
                .insert_header(ALLOW)
                .insert_header(PLAIN_TEXT)
                .body("Method Not Allowed. Use GET or HEAD.\n")
        }))
}

/// Returns true for GET and HEAD. The framework's guards of a method also note it in each request, which
/// takes memory.
fn reads(context: &GuardContext<'_>) -> bool {
    matches!(context.head().method, Method::GET | Method::HEAD)
}
