//! What an `AlertProvider` of Flagger says, and why nothing can be delivered to it. Who looks ahead
//! and who delivers go by the same rules.

use evenkeel_api::{GroupKind, Key, Obj};
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::redact;

/// What `spec.type` may be, in the order in which people are told.
const TYPES: [(&str, ProviderForm); 6] = [
    ("slack", ProviderForm::Slack),
    ("discord", ProviderForm::Slack),
    ("rocket", ProviderForm::Slack),
    ("msteams", ProviderForm::Teams),
    ("gchat", ProviderForm::GoogleChat),
    ("webhook", ProviderForm::Webhook),
];
/// Where Slack takes messages of those who have a token.
const SLACK_API: &str = "https://slack.com/api/chat.postMessage";

/// The form of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderForm {
    /// Slack's, which Discord and Rocket.Chat take, too.
    Slack,
    /// A card of Microsoft Teams.
    Teams,
    /// Google Chat's.
    GoogleChat,
    /// Ours.
    Webhook,
}

/// An `AlertProvider`, without what is in its Secret. Its address may be a password: there is no
/// `Debug`.
pub struct Provider {
    key: Key,
    kind: &'static str,
    form: ProviderForm,
    address: String,
    secret: Option<Key>,
    channel: String,
    username: String,
}

/// Where the messages of a provider go, and in which form. No `Debug`, as above.
pub struct ProviderTarget {
    /// Their form.
    pub form: ProviderForm,
    /// An `http` or `https` URL.
    pub address: String,
    /// What is shown there to be let in.
    pub token: Option<String>,
    /// Channel of the chat.
    pub channel: String,
    /// Who the chat says that the message is from.
    pub username: String,
}

impl Provider {
    /// The key of the provider with this name.
    pub fn key(namespace: &str, name: &str) -> Key {
        Key::new(GroupKind::new("flagger.app", "AlertProvider"), namespace, name)
    }

    /// What is said when there is none.
    pub fn absent(key: &Key) -> String {
        format!("{key} does not exist: create it, or correct spec.analysis.alerts")
    }

    /// Reads the object.
    ///
    /// **Errors**: in words, what of it keeps every message from being delivered.
    pub fn read(provider: &Obj) -> Result<Self, String> {
        let key = provider.key();
        let text = |path: &str| {
            provider.json().pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let or = |text: String, default: &str| if text.is_empty() { default.into() } else { text };
        let named = text("/spec/type");
        let Some((kind, form)) = TYPES.into_iter().find(|(kind, _)| *kind == named) else {
            let (named, known) = (redact::quote(&named), TYPES.map(|(kind, _)| kind).join(", "));
            return Err(format!("{key}: spec.type {named} is not supported; use one of {known}"));
        };
        if !text("/spec/proxy").is_empty() {
            return Err(format!("{key}: spec.proxy is not supported: remove it"));
        }
        let secret = text("/spec/secretRef/name");
        Ok(Self {
            key: key.clone(),
            kind,
            form,
            address: text("/spec/address"),
            secret: (!secret.is_empty()).then(|| key.sibling::<Secret>(&secret)),
            channel: or(text("/spec/channel"), "general"),
            username: or(text("/spec/username"), "evenkeel"),
        })
    }

    /// The Secret with its address or token, if it names one.
    pub fn secret(&self) -> Option<&Key> {
        self.secret.as_ref()
    }

    /// What is said when this Secret of it does not exist.
    pub fn without(&self, secret: &Key) -> String {
        format!("{}: {secret} does not exist: create it, or correct spec.secretRef", self.key)
    }

    /// Where its messages go, with what was found in its Secret.
    ///
    /// **Errors**: in words, why that is not known.
    pub fn target(self, secret: Option<&Obj>) -> Result<ProviderTarget, String> {
        let Self { key, kind, form, mut address, secret: named, channel, username } = self;
        let data = secret.and_then(|secret| secret.get::<Secret>().ok()?.data.clone());
        let field = |name: &str| {
            let bytes = data.as_ref()?.get(name)?;
            Some(String::from_utf8_lossy(&bytes.0).trim().to_owned())
        };
        let token = field("token").filter(|token| !token.is_empty());
        let mut place = "spec.address".to_owned();
        if let Some((named, kept)) = named.zip(field("address")) {
            address = kept;
            place = format!("the key address of {named}");
        }
        if address.is_empty() && kind == "slack" && token.is_some() {
            SLACK_API.clone_into(&mut address);
        }
        if address.is_empty() {
            return Err(format!(
                "{key} has no address: set spec.address, or `address` in the Secret of \
                 spec.secretRef"
            ));
        }
        // What it is instead may be what gives access to it.
        let host = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
        if !host.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?'])) {
            return Err(format!("{key}: {place} is not an http:// or https:// URL: correct it"));
        }
        // Discord takes Slack's messages at this path.
        if kind == "discord" && !address.ends_with("/slack") {
            address.push_str("/slack");
        }
        Ok(ProviderTarget { form, address, token, channel, username })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn obj(kind: &str, body: &Value) -> Obj {
        let api = if kind == "Secret" { "v1" } else { "flagger.app/v1beta1" };
        let mut whole = json!({"apiVersion": api, "kind": kind,
            "metadata": {"name": "chat", "namespace": "shop"}});
        evenkeel_api::json::merge(&mut whole, body);
        Obj::from_json(whole).unwrap()
    }

    /// Where messages go, or why nowhere, with this in the Secret.
    fn told(spec: &Value, data: &Value) -> String {
        let provider = match Provider::read(&obj("AlertProvider", &json!({ "spec": spec }))) {
            Ok(provider) => provider,
            Err(problem) => return problem,
        };
        let secret = obj("Secret", &json!({ "data": data }));
        let secret = provider.secret().is_some().then_some(&secret);
        match provider.target(secret) {
            Ok(target) => {
                let ProviderTarget { form, address, token, channel, .. } = target;
                format!("{form:?} {address} #{channel} {token:?}")
            }
            Err(problem) => problem,
        }
    }

    #[test]
    fn a_provider_says_where_messages_go_or_what_to_correct() {
        let secret = json!({"name": "hook"});
        // `http://kept`, and ` a-token `.
        let (kept, token) = ("aHR0cDovL2tlcHQ=", "IGEtdG9rZW4g");
        let rows = [
            (json!({"type": "rocket", "address": "http://r", "channel": "ops"}), json!({})),
            (json!({"type": "discord", "address": "https://d/hook"}), json!({})),
            (json!({"type": "discord", "address": "https://d/hook/slack"}), json!({})),
            (json!({"type": "slack", "secretRef": secret}), json!({ "token": token })),
            (json!({"type": "gchat", "secretRef": secret}), json!({ "token": token })),
            (
                json!({"type": "webhook", "secretRef": secret, "address": "http://a"}),
                json!({"address": kept, "token": token}),
            ),
            (json!({"type": "msteams", "secretRef": secret}), json!({ "address": "eA==" })),
            // Without a Secret's name nobody asked for one.
            (json!({"type": "slack"}), json!({ "token": token })),
            (json!({"type": "pager", "address": "http://p"}), json!({})),
            (json!({"address": "http://p"}), json!({})),
            (json!({"type": "slack", "address": "http://s", "proxy": "http://p"}), json!({})),
            (json!({"type": "slack", "address": "s.example.com"}), json!({})),
            (json!({"type": "slack", "address": "https://:80"}), json!({})),
        ];
        let told: Vec<_> = rows.iter().map(|(spec, data)| told(spec, data)).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        Slack http://r #ops None
        Slack https://d/hook/slack #general None
        Slack https://d/hook/slack #general None
        Slack https://slack.com/api/chat.postMessage #general Some("a-token")
        AlertProvider/shop/chat has no address: set spec.address, or `address` in the Secret of spec.secretRef
        Webhook http://kept #general Some("a-token")
        AlertProvider/shop/chat: the key address of Secret/shop/hook is not an http:// or https:// URL: correct it
        AlertProvider/shop/chat has no address: set spec.address, or `address` in the Secret of spec.secretRef
        AlertProvider/shop/chat: spec.type "pager" is not supported; use one of slack, discord, rocket, msteams, gchat, webhook
        AlertProvider/shop/chat: spec.type "" is not supported; use one of slack, discord, rocket, msteams, gchat, webhook
        AlertProvider/shop/chat: spec.proxy is not supported: remove it
        AlertProvider/shop/chat: spec.address is not an http:// or https:// URL: correct it
        AlertProvider/shop/chat: spec.address is not an http:// or https:// URL: correct it
        "#);
    }
}
