//! OpenAI's API: chats, completions, models.

pub mod answer;
pub mod chat;
pub mod completions;
pub mod messages;
pub mod models;
pub mod reasoning;
pub mod request;
pub mod schema;
