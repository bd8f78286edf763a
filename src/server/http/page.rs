//! placeholder
#[utoipa::path(get, path = "/", responses((status = 200)))]
pub async fn page() -> &'static str {
    "page"
}
