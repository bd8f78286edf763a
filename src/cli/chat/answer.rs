//! One answer, as it comes.

use super::{super::terminal::print, totals::Turn};
use stairwell::{
    error::Error,
    server::{
        error::ApiError,
        io_struct::{GenerateReqInput, SampleEnd},
        tokenizer_manager::TokenizerManager,
    },
};
use std::{sync::Arc, time::Instant};

/// What has come of an answer.
#[derive(Default)]
pub struct Answer {
    pub text: String,
    pub turn: Turn,
    /// `None` before the end, and for an answer that never came to it.
    pub end: Option<SampleEnd>,
}

/// Why an answer can't go on.
pub enum Trouble {
    /// The request, or the engine.
    Request(ApiError),
    /// Nobody reads on.
    Output(Error),
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Trouble {
        Trouble::Request(error)
    }
}

impl Answer {
    /// Asks for the answer to a request and prints it piece by piece. If the future is dropped on the way, the engine takes the request
    /// back, and what has come so far stays.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn stream(
        &mut self,
        manager: &Arc<TokenizerManager>,
        request: GenerateReqInput,
    ) -> Result<(), Trouble> {
        let start = Instant::now();
        let mut generation = manager.generate(request).await?;
        self.turn.prompt = generation.prepared.of(0).request.prompt.len();
        while let Some(pieces) = generation.next().await? {
            for piece in pieces {
                self.turn.first.get_or_insert_with(|| start.elapsed());
                self.turn.total = start.elapsed();
                self.turn.output += piece.tokens.len();
                print(&piece.text).map_err(Trouble::Output)?;
                self.text += &piece.text;
                let Some(end) = piece.end else { continue };
                // The token that ends the answer has no text, and counts.
                (self.turn.output, self.turn.cached) = (end.completion_tokens, Some(end.cached_tokens));
                self.end = Some(end);
            }
        }
        Ok(())
    }
}
