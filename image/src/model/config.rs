use oci_spec::image::{Digest, ImageConfiguration};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::Value;

use crate::{Error, Result};

/// An image config: the OCI fields, and what Docker adds to them.
///
/// Serialises to one JSON object, as the registry carries it, with Docker's fields inside `config`.
#[derive(Clone, Debug, Default)]
pub struct ImageConfig {
    /// The OCI image configuration.
    pub oci: ImageConfiguration,
    /// Docker's additions inside `config`.
    pub docker: DockerConfig,
}

/// What Docker keeps in `config` beyond the OCI image-spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerConfig {
    /// `HEALTHCHECK`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `SHELL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// `ONBUILD` triggers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
}

/// Docker's health check; durations in nanoseconds, 0 means inherit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", arg...]` or `["CMD-SHELL", command]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(default, skip_serializing_if = "zero")]
    pub interval: i64,
    /// Time a check may take.
    #[serde(default, skip_serializing_if = "zero")]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(default, skip_serializing_if = "zero")]
    pub start_period: i64,
    /// Time between checks during the start period.
    #[serde(default, skip_serializing_if = "zero")]
    pub start_interval: i64,
    /// Failures in a row that make a container unhealthy.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "none")]
    pub retries: u32,
}

/// A number that is out of range is no reason to refuse a whole image: Docker's builders do not check it.
fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let n = Option::<i64>::deserialize(deserializer)?.unwrap_or(0);
    Ok(u32::try_from(n.max(0)).unwrap_or(u32::MAX))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn zero(n: &i64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn none(n: &u32) -> bool {
    *n == 0
}

impl ImageConfig {
    /// Parses a config blob.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::invalid("config", &e))
    }

    /// The bytes of a config blob: the same for the same values, whatever order maps iterate in.
    pub fn to_json(&self) -> Vec<u8> {
        let value = serde_json::to_value(self).expect("a config has only string keys");
        super::canonical(&value)
    }

    /// The layers' diff IDs, base first; [`Error::Invalid`] when one does not parse.
    pub fn diff_ids(&self) -> Result<Vec<Digest>> {
        self.oci
            .rootfs()
            .diff_ids()
            .iter()
            .map(|id| id.parse().map_err(|e| Error::invalid(format!("diff ID {id:?}"), &e)))
            .collect()
    }
}

impl Serialize for ImageConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut value = serde_json::to_value(&self.oci).map_err(ser::Error::custom)?;
        let docker = serde_json::to_value(&self.docker).map_err(ser::Error::custom)?;
        if let (Some(root), Value::Object(docker)) = (value.as_object_mut(), docker)
            && !docker.is_empty()
        {
            let config = root.entry("config").or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Some(config) = config.as_object_mut() {
                config.extend(docker);
            }
        }
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ImageConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let docker = match value.get("config") {
            Some(config) if !config.is_null() => {
                DockerConfig::deserialize(config).map_err(de::Error::custom)?
            }
            _ => DockerConfig::default(),
        };
        Ok(Self { oci: ImageConfiguration::deserialize(value).map_err(de::Error::custom)?, docker })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_retries_are_none() {
        for (text, retries) in [("-1", 0), ("null", 0), ("3", 3), ("5000000000", u32::MAX)] {
            let json = format!("{{\"Test\":[\"CMD\",\"x\"],\"Retries\":{text}}}");
            assert_eq!(serde_json::from_str::<Healthcheck>(&json).unwrap().retries, retries);
        }
    }

    const CONFIG: &str = r#"{"architecture":"amd64","config":{"Cmd":["sh"],"Entrypoint":null,"ExposedPorts":{"80/tcp":{},"443/tcp":{}},
        "Healthcheck":{"Test":["CMD","true"],"Interval":5000000000,"Retries":3},"Labels":{"b":"2","a":"1","c":"3"},"OnBuild":["RUN x"],"Shell":["/bin/bash","-c"]},
        "os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

    #[test]
    fn docker_fields_survive() {
        let config = ImageConfig::from_json(CONFIG.as_bytes()).unwrap();
        assert_eq!(config.docker.shell.as_deref().unwrap(), ["/bin/bash", "-c"]);
        let again = ImageConfig::from_json(&config.to_json()).unwrap();
        assert_eq!(again.docker, config.docker);
        assert_eq!(again.docker.healthcheck.unwrap().retries, 3);
        assert_eq!(again.oci.config().as_ref().unwrap().cmd().as_deref().unwrap(), ["sh"]);
    }

    #[test]
    fn the_same_config_has_the_same_bytes() {
        let bytes = ImageConfig::from_json(CONFIG.as_bytes()).unwrap().to_json();
        for _ in 0..20 {
            assert_eq!(ImageConfig::from_json(CONFIG.as_bytes()).unwrap().to_json(), bytes);
        }
        assert!(String::from_utf8(bytes).unwrap().contains(r#""Labels":{"a":"1","b":"2","c":"3"}"#));
    }

    #[test]
    fn a_hostile_diff_id_is_refused() {
        for id in ["sha256:../../x", "sha256:ABC", "latest", "sha256:0"] {
            let json = format!(
                r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{id}"]}}}}"#
            );
            assert!(ImageConfig::from_json(json.as_bytes()).unwrap().diff_ids().is_err(), "{id}");
        }
    }
}
