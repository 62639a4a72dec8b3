//! Each fault on each verb, the token server included. What one verb survives, all must: guards have been on the pull path only before
//! (CVE-2026-33990).
//!
//! # Which test shows what
//!
//! Faults, as a registry and its network have them; the right end of each, and where it is shown (besides this file):
//!
//! | fault | right end | test |
//! |---|---|---|
//! | a body is cut, ranges work | goes on there | `faults::a_cut_body_is_taken_up_where_it_broke`, `ranges::parts_that_break_are_taken_up` |
//! | reset in a blob, ranges are ignored | the blob starts again | `faults::a_reset_without_ranges_starts_the_blob_again` |
//! | another state of the blob meanwhile | the blob starts again | `faults::another_validator_starts_the_blob_again` |
//! | no length, and ends early | no end | `faults::a_body_without_length_that_ends_early_is_no_end` |
//! | a flipped bit | an error, nothing kept | `faults::a_flipped_bit_is_found`, `ranges::parts_are_verified_as_a_whole` |
//! | 503, 500, 502 twice; 429 with `Retry-After` in both forms | waits as told, then done | `faults::errors_that_pass_are_waited_for`, here |
//! | 429 for a day | an error that says so | `faults::a_registry_that_asks_for_too_long_a_wait_is_an_error_that_says_so` |
//! | never better | an end after five attempts | `faults::retries_have_an_end_on_every_verb` |
//! | endless chunks; a descriptor's size too small, too large, huge | stops at the size; an error | `faults::bodies_end_at_the_descriptors_size`, `bounds` |
//! | `Content-Encoding` nobody asked for | an error | `faults::encodings_nobody_asked_for_are_refused` |
//! | redirects in a circle | an error | `faults::redirects_end`, here |
//! | `Docker-Content-Digest` lies, or is none | a warning, the bytes count | `faults::a_lying_digest_header_is_reported_and_the_bytes_count`, here |
//! | type and content differ; layers and manifests at once | an error | `faults::documents_of_two_meanings_are_refused` |
//! | 150 MB of manifest, 2 million tags in a reply, a `Link` loop, endless bodies | an error, under 32 MB | `bounds::memory_is_bounded_whatever_comes` |
//! | `Link` in a circle, without end, to another host | an error | `faults::lists_are_bounded`, `hostile::next_pages_elsewhere_are_refused` |
//! | silence in a body, in a reply | noticed, goes on | `faults::a_stall_is_noticed_and_resumed`, here |
//! | crumbs | an error | `faults::a_server_that_hands_out_crumbs_is_given_up`, `faults::a_manifest_that_drips_is_given_up` |
//! | an upload breaks; 413; 416; forgotten | goes on where the registry has it; smaller; anew | `faults::uploads_go_on_where_they_broke`, `faults::a_cap_on_request_bodies_is_learned`, here |
//! | redirect, upload location, realm on another port | no login goes there | `hostile` |
//! | links that reset or stall every 60 MB | all arrives, at most 5 % twice | `bounds::images_arrive_over_links_that_break` |
//!
//! Advisories:
//!
//! | | test |
//! |---|---|
//! | CVE-2020-15157: a foreign URL's host asks for a login | `hostile::foreign_urls_see_no_login_and_only_if_wanted` |
//! | CVE-2021-41190: manifest or index | `faults::documents_of_two_meanings_are_refused`, `manifest` unit tests |
//! | CVE-2024-3727: a digest that is none becomes a path or a request | `hostile::digests_never_become_paths`, here |
//! | CVE-2024-35192: a helper gives its secret to a host that looks similar | `auth::helpers_run_once_and_for_the_exact_host_only` |
//! | ggcr #2193 and its like: realm on inner addresses, other schemes; redirects of token servers | `hostile::token_servers_of_other_kinds_are_not_asked`, `hostile::a_trusted_token_server_gets_the_login_and_its_redirects_do_not` |
//! | ggcr #2440: names that resolve to inner addresses, also later | `hostile::names_that_resolve_to_inner_addresses_are_not_reached`, `hostile::names_that_change_their_address_lead_no_further` |
//! | ggcr #2293, #2295, #2332, #2349: foreign URL, `Location`, `Link`, token after a redirect | `hostile` (one each), here for pushes |
//! | CVE-2026-48978: a realm gets the refresh token | `hostile::token_servers_elsewhere_get_no_login`; on a second challenge, here |
//! | GHSA-vh4v-2xq2-g5cg: another port of the same host | all of `hostile`, whose strangers differ by port only |
//! | GHSA-jxpm-75mh-9fp7: upload `Location` | `hostile::upload_locations_elsewhere_get_no_login` |
//! | CVE-2026-85732, GHSA-298f-872v-2rcx: `Link` elsewhere, endless | `hostile::next_pages_elsewhere_are_refused`, `faults::lists_are_bounded` |
//! | GHSA-f36w-mj3v-6jqv: a size is allocated | `faults::bodies_end_at_the_descriptors_size` |
//! | CVE-2020-1702: documents without bound | `bounds::memory_is_bounded_whatever_comes` |
//! | GHSA-2v5f-5r6w-p67r: "too many requests" taken for "no signatures" | `artifacts::an_answer_about_artifacts_that_is_no_answer_is_an_error` |
//! | https to http | `policy` unit tests |
//! | secrets in errors and `Debug` | `hostile` (each failure's text), `url` and `proxies` unit tests |

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::fault::{Conn, Seen, Server, Tame};
use common::{Memory, OCI_INDEX, chain, quick};
use longshore_registry_client::{
    Client, Credential, Ctx, Error, Layout, Platforms, StaticCredentials, Timeouts,
};
use oci_spec::image::Descriptor;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Unavailable,
    TooMany,
    Reset,
    HalfAHead,
    HalfABody,
    Silence,
}

const FAULTS: [Fault; 6] =
    [Fault::Unavailable, Fault::TooMany, Fault::Reset, Fault::HalfAHead, Fault::HalfABody, Fault::Silence];

impl Fault {
    fn strike(self, seen: &Seen, conn: &mut Conn<'_>) {
        match self {
            // The reply to a HEAD has no body, which would be taken for the next reply's head.
            Self::Unavailable if seen.method == "HEAD" => conn.reply(503, &[], b""),
            Self::Unavailable => conn.reply(503, &[], b"<html>"),
            Self::TooMany => conn.reply(429, &[("retry-after", "0")], b""),
            Self::Reset => conn.reset(),
            Self::HalfAHead => {
                let _ = conn.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le");
                conn.keep = false;
            }
            // Where there is a body of no known size to break.
            Self::HalfABody if seen.method == "GET" && !seen.target.contains("/blobs/") => {
                conn.head(200, &[("content-type", OCI_INDEX)], Some(1000));
                let _ = conn.stream.write_all(b"{\"schemaVersion\":2,");
                conn.keep = false;
            }
            Self::HalfABody => conn.reset(),
            Self::Silence => {
                std::thread::sleep(Duration::from_millis(700));
                conn.keep = false;
            }
        }
    }
}

fn client(server: &Server) -> Client {
    let mut timeouts = Timeouts::default();
    timeouts.stall = Duration::from_millis(200);
    timeouts.response = Duration::from_millis(250);
    let host = server.address.to_string();
    let credentials = StaticCredentials::new().with(&host, Credential::basic("user", "s3cret"));
    quick().timeouts(timeouts).credentials(credentials).build().unwrap()
}

/// What all verbs work on.
struct Scene {
    tame: Arc<Tame>,
    root: Descriptor,
    fresh: Memory,
    fresh_root: Descriptor,
}

fn scene() -> Scene {
    let tame = Arc::new(Tame::default());
    let root = tame.memory.image(80, &[50_000, 10]);
    tame.tags.lock().unwrap().insert("v1".into(), tame.memory.get(root.digest()).unwrap());
    let fresh = Memory::default();
    let fresh_root = fresh.image(81, &[1_500_000, 10]);
    Scene { tame, root, fresh, fresh_root }
}

type Outcome = (&'static str, Result<(), Error>);

/// Every verb, in an order in which each can work.
fn verbs(client: &Client, server: &Server, scene: &Scene) -> Vec<Outcome> {
    let at = |name: &str| server.reference(name);
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    let host = server.address.to_string();
    let by_digest = at("r:v1").with_digest(scene.root.digest().clone());
    let layer = common::sha256(&common::noise(80_001, 50_000));
    vec![
        ("ping", client.ping(&host)),
        ("resolve", client.resolve(&at("r:v1")).map(drop)),
        ("pull", client.pull(&at("r:v1"), &Platforms::Host, &layout, Ctx::none()).map(drop)),
        ("push", client.push(&at("r:v2"), &scene.fresh_root, &scene.fresh, Ctx::none()).map(drop)),
        ("copy", client.copy(&at("r:v2"), &at("s:v2"), Ctx::none()).map(drop)),
        ("tag", client.tag(&at("r:v2"), &["v3", "v4"]).map(drop)),
        ("tags", client.tags(&at("r")).map(drop)),
        ("catalog", client.catalog(&host).map(drop)),
        ("referrers", client.referrers(&at("r"), scene.root.digest(), None).map(drop)),
        ("stat", client.source(&at("r")).unwrap().stat(&layer).map(drop)),
        ("delete a tag", client.delete(&at("r:v1"))),
        ("delete a manifest", client.delete(&by_digest)),
        ("delete a blob", client.delete_blob(&at("r"), &layer)),
    ]
}

/// A tame registry behind tokens of its own token server. `turn` sees each request first, with how often one of its kind was seen.
fn registry(
    scene: &Scene,
    turn: impl Fn(&Seen, &mut Conn<'_>, usize) -> bool + Send + Sync + 'static,
) -> Server {
    let (tame, kinds) = (Arc::clone(&scene.tame), Mutex::new(HashMap::new()));
    Server::start(move |seen, conn| {
        let known = seen.path() == "/token" || seen.header("authorization") == Some("Bearer good");
        // Uploads have a number each, and are one kind.
        let path = seen.path().trim_end_matches(char::is_numeric).to_owned();
        let kind = format!("{} {path} {known}", seen.method);
        let before = {
            let mut kinds = kinds.lock().unwrap();
            let count: &mut usize = kinds.entry(kind).or_default();
            *count += 1;
            *count - 1
        };
        if turn(seen, conn, before) {
            return;
        }
        if seen.path() == "/token" {
            let right = seen.header("authorization") == Some("Basic dXNlcjpzM2NyZXQ=");
            return conn.reply(if right { 200 } else { 401 }, &[], br#"{"token":"good"}"#);
        }
        if !known {
            let realm =
                format!("Bearer realm=\"http://{}/token\",service=\"s\"", seen.header("host").unwrap());
            return conn.reply(401, &[("www-authenticate", &realm)], b"");
        }
        match seen.path() {
            "/v2/_catalog" => conn.reply(200, &[], br#"{"repositories":["r"]}"#),
            p if p.contains("/referrers/") => conn.reply(200, &[], br#"{"schemaVersion":2,"manifests":[]}"#),
            _ => tame.answer(seen, conn),
        }
    })
}

#[test]
fn every_verb_outlasts_every_fault() {
    std::thread::scope(|scope| {
        for fault in FAULTS {
            scope.spawn(move || {
                let scene = scene();
                // Twice for each kind of request, the token server's too.
                let server = registry(&scene, move |seen, conn, before| {
                    if before < 2 {
                        fault.strike(seen, conn);
                    }
                    before < 2
                });
                for (verb, outcome) in verbs(&client(&server), &server, &scene) {
                    outcome.unwrap_or_else(|e| panic!("{fault:?}, {verb}: {}", chain(&e)));
                }
                let pushed = scene.tame.tags.lock().unwrap()["v4"].clone();
                assert_eq!(common::sha256(&pushed), *scene.fresh_root.digest());
                for blob in scene.fresh.0.lock().unwrap().keys() {
                    assert!(scene.tame.memory.get(blob).is_some(), "{fault:?}: {blob} is missing");
                }
            });
        }
    });
}

#[test]
fn every_verb_ends_where_a_fault_does_not() {
    std::thread::scope(|scope| {
        for fault in FAULTS {
            scope.spawn(move || {
                let scene = scene();
                let server = registry(&scene, move |seen, conn, _| {
                    fault.strike(seen, conn);
                    true
                });
                for (verb, outcome) in verbs(&client(&server), &server, &scene) {
                    if (verb, fault) == ("ping", Fault::HalfABody) {
                        // The status is all that it asks for.
                        continue;
                    }
                    let error = outcome.err().unwrap_or_else(|| panic!("{fault:?}, {verb}: it worked"));
                    assert!(error.is_retryable(), "{fault:?}, {verb}: {error:?}");
                }
            });
        }
    });
}

#[test]
fn circles_of_redirects_end_on_every_verb() {
    let scene = scene();
    let server = registry(&scene, |seen, conn, _| {
        let known = seen.header("authorization").is_some() && seen.path() != "/token";
        if known {
            conn.reply(307, &[("location", &seen.target)], b"");
        }
        known
    });
    for (verb, outcome) in verbs(&client(&server), &server, &scene) {
        let error = outcome.err().unwrap_or_else(|| panic!("{verb}: it worked"));
        assert!(error.to_string().contains("more than 5 redirects"), "{verb}: {error}");
    }
}

#[test]
fn a_second_challenge_gets_no_more_than_the_first() {
    // At first an honest token server; then, as if the token had expired, somebody else's.
    let evil = Server::start(|_, conn| conn.reply(401, &[], b""));
    let elsewhere = format!("Bearer realm=\"{}/token\"", evil.url());
    let basic = "Basic realm=\"x\"".to_owned();
    for challenge in [elsewhere, basic] {
        let scene = scene();
        let trap = challenge.clone();
        let server = registry(&scene, move |seen, conn, _| {
            let spring = seen.header("authorization").is_some() && !matches!(seen.path(), "/token" | "/v2/");
            if spring {
                conn.reply(401, &[("www-authenticate", &trap)], b"");
            }
            spring
        });
        let client = client(&server);
        client.ping(&server.address.to_string()).unwrap();
        for (verb, outcome) in verbs(&client, &server, &scene).into_iter().skip(1) {
            let error = outcome.err().unwrap_or_else(|| panic!("{verb}: it worked"));
            assert!(error.is_auth(), "{verb}: {error:?}");
            assert!(!format!("{error:?} {}", chain(&error)).contains("s3cret"), "{verb}");
        }
        evil.saw_no_secret();
        assert!(evil.seen().iter().all(|s| s.method == "GET" && s.query("account").is_none()));
    }
}

#[test]
fn pushes_that_are_redirected_carry_nothing() {
    for method in ["POST", "PUT", "PATCH", "HEAD"] {
        let scene = scene();
        let evil = Server::start(|seen, conn| {
            let location = ("location", "/v2/r/blobs/uploads/u1?sig=s3cret-of-his-own");
            let headers: &[(&str, &str)] = if seen.method == "POST" { &[location] } else { &[] };
            conn.reply(if seen.method == "POST" { 202 } else { 201 }, headers, b"");
        });
        let to = evil.url();
        let server = registry(&scene, move |seen, conn, _| {
            let hit =
                seen.header("authorization").is_some() && seen.method == method && seen.path() != "/token";
            if hit {
                conn.reply(307, &[("location", &format!("{to}{}?signature=x", seen.path()))], b"");
            }
            hit
        });
        let pushed =
            client(&server).push(&server.reference("r:v2"), &scene.fresh_root, &scene.fresh, Ctx::none());
        if let Err(error) = pushed {
            let text = format!("{error:?} {}", chain(&error));
            assert!(!text.contains("s3cret") && !text.contains("signature"), "{text}");
        }
        for seen in evil.seen() {
            assert!(
                seen.header("authorization").is_none() && seen.header("cookie").is_none(),
                "{method}: {seen:?}"
            );
        }
    }
}

#[test]
fn digests_that_are_none_are_errors_wherever_they_stand() {
    for bad in
        ["sha256:../../x", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha512:00", "../../etc/passwd"]
    {
        let scene = scene();
        let server = registry(&scene, move |seen, conn, _| {
            if seen.header("authorization").is_none() {
                return false;
            }
            if seen.path().contains("/referrers/") {
                let list = format!(
                    r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"x","digest":"{bad}","size":1}}]}}"#
                );
                conn.reply(200, &[], list.as_bytes());
                return true;
            }
            // A header that lies is a warning at most, and never a request.
            if seen.method == "HEAD" && seen.path().ends_with("/manifests/v1") {
                let headers = [("docker-content-digest", bad), ("content-type", common::OCI_MANIFEST)];
                conn.head(200, &headers, Some(10));
                return true;
            }
            false
        });
        let client = client(&server);
        let found = client.referrers(&server.reference("r"), scene.root.digest(), None);
        assert!(found.is_err(), "{bad}: {found:?}");
        assert_eq!(client.resolve(&server.reference("r:v1")).unwrap().digest(), scene.root.digest(), "{bad}");
        assert!(server.seen().iter().all(|s| !s.target.contains("..")), "{bad}");
    }
}
