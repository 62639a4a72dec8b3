//! Names: Docker's rule for given ones, and generated ones.

use super::{Error, Result};

const ADJECTIVES: &str = "able amber ample apt arctic autumn azure balmy bold brave breezy bright brisk bronze calm candid careful \
    cheery chilly civil clear clever coastal copper coral cosmic cozy crimson crisp daring dapper deep deft dusky eager early earnest \
    easy electric elegant even faithful fancy fearless fine firm fleet floral fluent fond frank fresh frosty gallant gentle gilded glad \
    gleaming golden graceful grand green happy hardy hazel hearty humble ideal indigo ivory jolly jovial keen kind lively lofty lucid \
    lucky lunar mellow merry mighty misty modest neat nimble noble north olive open opal patient placid plucky polite prime proud quick \
    quiet radiant rapid ready regal robust rosy ruby rustic sage salty sandy scarlet serene sharp silent silver sleek smooth snowy solid \
    sonic south spry stable stark steady stellar still stout sturdy sunny swift tidal tidy tranquil trusty upbeat valiant velvet vivid \
    warm wary wild windy wise witty young zesty";
const NOUNS: &str = "albatross anchor archer badger barge basin bay beacon bear beaver berth boat bollard bosun breeze brig buoy cape \
    captain cargo cedar channel chart clipper coast compass coral cove crane creek crew current cutter deck delta derrick dinghy dock \
    dolphin dory drift eagle estuary falcon ferry fjord fleet foghorn forest fox frigate galleon galley gannet gale gull gunwale halyard \
    harbor haven hawk hawser heron herring horizon hull inlet island jetty keel kelp kestrel ketch knot lagoon lantern ledger lighter \
    lighthouse lobster lynx mackerel marina mariner marlin mast meadow mole moon mooring narwhal navigator oar ocean orca osprey otter \
    oyster packet paddle pearl pelican petrel pier pilot piper plover pontoon port puffin quay raft reef rigger river rope rudder sail \
    sailor salmon schooner sea seal sextant shanty shark ship shore skiff skipper sloop spar spray squall starfish stern strait surf swan \
    tern thicket tide tiller timber trawler trout tug tugboat voyager walrus wave wharf whale winch wind yawl";

/// `adjective_noun`, with a digit when `attempt` says that others were taken.
pub(super) fn generate(random: u64, attempt: u32) -> String {
    let pick = |words: &'static str, n: u64| {
        let count = words.split_ascii_whitespace().count() as u64;
        words.split_ascii_whitespace().nth((n % count) as usize).unwrap_or("calm")
    };
    let name = format!("{}_{}", pick(ADJECTIVES, random >> 32), pick(NOUNS, random & 0xffff_ffff));
    if attempt < 3 { name } else { format!("{name}{}", random % 10u64.saturating_pow(attempt.min(9) - 2)) }
}

/// Checks a given name; it is also one component of a path.
pub(super) fn check(name: &str) -> Result<&str> {
    let name = name.strip_prefix('/').unwrap_or(name);
    let inner = |b: &u8| b.is_ascii_alphanumeric() || b"_.-".contains(b);
    match name.as_bytes() {
        [first, rest @ ..]
            if first.is_ascii_alphanumeric()
                && !rest.is_empty()
                && rest.iter().all(inner)
                && name.len() <= 250 =>
        {
            Ok(name)
        }
        _ => Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_pass_their_own_rule() {
        for i in 0..5000u64 {
            let name = generate(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), (i % 12) as u32);
            assert_eq!(check(&name).unwrap(), name);
            assert!(name.contains('_'));
        }
    }

    #[test]
    fn names_stay_one_component() {
        for bad in ["", "a", "..", ".x", "a/b", "-a", "a b", "é", "a\0b"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(check("/web-1.x").unwrap(), "web-1.x");
    }
}
