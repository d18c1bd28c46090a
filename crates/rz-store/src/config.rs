//! The settings of a store, given by the caller.

use std::{fmt, path::PathBuf, time::Duration};

/// Where a store lies and how it may reach the world.
///
/// The library reads no environment variable: the caller decides. [`Config::from_lookup`] knows the usual
/// names for a caller that wants them.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// Folder of the store; made when first needed.
    pub root: PathBuf,
    /// Base address of the Hugging Face hub or of a mirror.
    pub hf_endpoint: String,
    /// Access token, sent only to the host of `hf_endpoint`.
    pub hf_token: Option<String>,
    /// Python to run pip with; without one, `python3` and then `python` are tried.
    pub python: Option<PathBuf>,
    /// Never use the network.
    pub offline: bool,
    /// HTTP proxy, such as `http://proxy:3128`.
    pub proxy: Option<String>,
    /// Hosts reached without the proxy, separated by commas.
    pub no_proxy: Option<String>,
    /// PEM file of the certificate authorities to trust instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest silence of a server.
    pub read_timeout: Duration,
    /// Attempts without any progress before a source is given up.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles for each further one.
    pub backoff: Duration,
}

impl Config {
    /// The default settings for a store in `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            hf_endpoint: "https://huggingface.co".into(),
            hf_token: None,
            python: None,
            offline: false,
            proxy: None,
            no_proxy: None,
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            attempts: 5,
            backoff: Duration::from_millis(500),
        }
    }

    /// The settings for a store in `root`, with the customary variables taken from `lookup`:
    /// `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, `RZ_OFFLINE`, `RZ_PYTHON`, `HTTPS_PROXY`, `ALL_PROXY`,
    /// `NO_PROXY` (each also in lower case), `SSL_CERT_FILE`. Empty values count as absent.
    ///
    /// ```
    /// let config = rz_store::Config::from_lookup("models", |name| std::env::var(name).ok());
    /// ```
    pub fn from_lookup(root: impl Into<PathBuf>, lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| {
            let value = lookup(name)?;
            let value = value.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let either = |name: &str| get(name).or_else(|| get(&name.to_lowercase()));
        let flag = |name: &str| {
            get(name).is_some_and(|v| !matches!(v.to_lowercase().as_str(), "0" | "false" | "no" | "off"))
        };
        let mut config = Self::new(root);
        if let Some(endpoint) = get("HF_ENDPOINT") {
            config.hf_endpoint = endpoint;
        }
        config.hf_token = get("HF_TOKEN");
        config.python = get("RZ_PYTHON").map(PathBuf::from);
        config.offline = flag("RZ_OFFLINE") || flag("HF_HUB_OFFLINE");
        config.proxy = either("HTTPS_PROXY").or_else(|| either("ALL_PROXY"));
        config.no_proxy = either("NO_PROXY");
        config.ca_file = get("SSL_CERT_FILE").map(PathBuf::from);
        config
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("root", &self.root)
            .field("hf_endpoint", &self.hf_endpoint)
            .field("hf_token", &self.hf_token.as_ref().map(|_| "<hidden>"))
            .field("python", &self.python)
            .field("offline", &self.offline)
            .field("proxy", &self.proxy.as_ref().map(|_| "<hidden>"))
            .field("no_proxy", &self.no_proxy)
            .field("ca_file", &self.ca_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("attempts", &self.attempts)
            .field("backoff", &self.backoff)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Config {
        Config::from_lookup("r", |name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_are_taken_when_set() {
        let config = from(&[
            ("HF_ENDPOINT", "http://mirror"),
            ("HF_TOKEN", " hf_x\n"),
            ("RZ_OFFLINE", "1"),
            ("https_proxy", "http://p:1"),
            ("SSL_CERT_FILE", ""),
        ]);
        assert_eq!(config.hf_endpoint, "http://mirror");
        assert_eq!(config.hf_token.as_deref(), Some("hf_x"));
        assert!(config.offline);
        assert_eq!(config.proxy.as_deref(), Some("http://p:1"));
        assert_eq!(config.ca_file, None);
        assert!(!from(&[("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn debug_hides_secrets() {
        let text = format!("{:?}", from(&[("HF_TOKEN", "hf_secret"), ("ALL_PROXY", "http://u:pw@p")]));
        assert!(!text.contains("hf_secret") && !text.contains("pw"), "{text}");
    }
}
