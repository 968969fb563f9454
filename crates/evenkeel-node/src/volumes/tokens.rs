use evenkeel_control::BoxFuture;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenWanted {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its `ServiceAccount`.
    pub service_account: String,
    /// Name of the pod that the token is bound to.
    pub pod: String,
    /// Its uid.
    pub pod_uid: String,
    /// Who is to accept the token; empty is the API server.
    pub audience: String,
    /// For how long.
    pub seconds: i64,
}

/// Makes tokens of `ServiceAccount`s for pods.
///
/// **Source**: the kubelet's use of the `token` subresource (`pkg/kubelet/token`).
pub trait Tokens: Send + Sync {
    /// A token; the error says why there is none.
    fn token<'a>(&'a self, wanted: &'a TokenWanted) -> BoxFuture<'a, Result<String, String>>;
}

/// For an API server without `TokenRequest`.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTokens;

impl Tokens for NoTokens {
    fn token<'a>(&'a self, wanted: &'a TokenWanted) -> BoxFuture<'a, Result<String, String>> {
        let problem = format!(
            "this API server makes no tokens of ServiceAccounts (TokenRequest for {}/{})",
            wanted.namespace, wanted.service_account
        );
        Box::pin(async move { Err(problem) })
    }
}
