//! Where each row of the study of Weave Net is shown that is about a host: its life (section 1.A), attach and expose (1.H), what
//! it tells (1.Q), and the host's firewall (1.R). Owns the list, and that no scenario of it is missing.

use std::collections::BTreeSet;
use std::env;
use std::process::Command;

use anyhow::{Result, ensure};

/// A row of the study.
struct Row {
    number: u16,
    about: &'static str,
    shown: Shown,
}

enum Shown {
    /// By these scenarios.
    By(&'static [&'static str]),
    /// It does not apply, since...
    Not(&'static str),
}

use Shown::{By, Not};

const ROWS: &[Row] = &[
    // Section 1.A.
    row(
        1,
        "launch returns when the router answers",
        By(&[
            "mesh::three_routers_launched_in_a_chain_connect_to_each_other_within_a_second",
            "package::a_service_manager_hears_that_the_router_is_ready_lives_and_ends",
        ]),
    ),
    row(
        2,
        "a second launch is refused",
        By(&[
            "restart::a_second_launch_is_refused_and_the_first_goes_on",
            "restart::two_launches_at_once_make_one_router",
        ]),
    ),
    row(
        3,
        "a peer is a name or an address, with or without a port",
        By(&[
            "peering::a_name_is_resolved_again_at_each_try",
            "peering::peers_are_found_across_different_ports",
        ]),
    ),
    row(4, "names are resolved again", By(&["peering::a_name_is_resolved_again_at_each_try"])),
    row(
        5,
        "a peer that cannot be resolved",
        By(&[
            "documents::a_peer_that_cannot_be_resolved_or_reached_is_tried_again_and_shown",
            "peering::a_name_that_comes_to_be_known_later_is_found",
        ]),
    ),
    row(6, "one port for all", By(&["peering::peers_are_found_across_different_ports"])),
    row(
        7,
        "one address for all",
        By(&[
            "peering::a_router_can_be_kept_to_one_of_the_hosts_addresses",
            "places::an_address_that_is_not_the_hosts_is_refused",
        ]),
    ),
    row(
        8,
        "identity",
        By(&[
            "cleanup::a_router_launched_after_a_reset_is_a_new_peer",
            "trust::a_cloned_identity_is_refused_and_the_original_goes_on",
            "places::a_damaged_identity_is_refused_and_left_as_it_is",
        ]),
    ),
    row(9, "names of peers that users choose in hexadecimal", Not("an id is the hash of a key")),
    row(10, "nicknames", By(&["peering::nicknames_are_shown_and_may_be_borne_by_two"])),
    row(
        11,
        "a life is told from the one before",
        By(&[
            "restart::a_killed_router_launched_again_carries_traffic_within_two_seconds",
            "addresses::state::what_a_client_was_told_survives_any_number_of_kills",
        ]),
    ),
    row(
        12,
        "stop leaves what is local",
        By(&[
            "restart::stop_leaves_containers_of_the_host_talking_and_launch_takes_them_up_again",
            "vxlan::a_router_that_is_killed_and_one_that_is_stopped_lose_no_frame_of_the_kernel",
        ]),
    ),
    row(
        13,
        "reset",
        By(&[
            "addresses::state::a_host_that_was_reset_gives_its_space_away_and_gets_some_again",
            "cleanup::reset_leaves_the_host_as_it_was_before_the_first_launch",
            "cleanup::reset_after_a_kill_leaves_the_host_as_it_was_before_the_first_launch",
            "cleanup::reset_after_stop_leaves_the_host_as_it_was_before_the_first_launch",
            "cleanup::reset_where_nothing_is_changes_nothing",
            "cleanup::reset_leaves_alone_what_is_not_the_routers",
        ]),
    ),
    row(14, "peers are remembered", By(&["peering::targets_outlive_the_router_and_resume_takes_them_up"])),
    row(15, "resume", By(&["peering::targets_outlive_the_router_and_resume_takes_them_up"])),
    row(
        16,
        "Docker's restart policy",
        Not("systemd's unit has that part: machines::systemd_starts_watches_reloads_and_ends_a_router"),
    ),
    row(
        17,
        "a bridge that was taken down while nobody looked",
        By(&["lifecycle::what_was_taken_from_a_dead_router_is_there_again_after_the_launch"]),
    ),
    row(
        18,
        "a bridge of another kind",
        By(&[
            "places::a_bridge_name_that_is_in_use_is_refused",
            "places::a_tap_name_that_is_in_use_is_refused",
        ]),
    ),
    row(
        19,
        "half of what was made",
        By(&[
            "lifecycle::what_was_taken_from_a_dead_router_is_there_again_after_the_launch",
            "uplink::nothing_of_the_capture_outlives_its_router_for_long",
        ]),
    ),
    row(
        20,
        "kernels that lack something",
        By(&[
            "kernels::a_kernel_without_vxlan_leaves_frames_to_user_space_and_status_says_why",
            "kernels::a_device_that_cannot_be_made_again_leaves_frames_to_user_space_until_it_can",
            "ovs::a_kernel_without_datapaths_is_told_of_with_what_to_do",
            "places::without_dev_net_tun_a_launch_is_refused_with_what_to_do",
            "uplink::without_dev_net_tun_a_router_captures_packets",
        ]),
    ),
    row(
        21,
        "the log's level",
        By(&[
            "lifecycle::a_log_is_as_long_as_was_asked_for_and_of_the_form_that_was_asked_for",
            "config::a_router_is_launched_from_its_file_and_follows_what_can_change_in_it",
        ]),
    ),
    row(
        22,
        "signals",
        By(&[
            "restart::a_router_in_the_foreground_ends_tidily_at_a_signal",
            "never_in_clear::the_wire_shows_nothing_in_clear_whatever_happens",
        ]),
    ),
    row(23, "secrets are not shown", By(&["doctor::a_report_has_every_view_and_the_secret_is_seen_nowhere"])),
    row(
        24,
        "readiness",
        By(&[
            "package::a_service_manager_hears_that_the_router_is_ready_lives_and_ends",
            "machines::systemd_starts_watches_reloads_and_ends_a_router",
        ]),
    ),
    row(25, "nobody is called", By(&["lifecycle::a_router_without_peers_says_nothing_to_anybody"])),
    row(26, "no directory in a cloud", By(&["lifecycle::a_router_without_peers_says_nothing_to_anybody"])),
    row(
        27,
        "what is missing is said",
        By(&[
            "places::without_root_a_launch_is_refused",
            "walls::without_nft_the_router_goes_on_and_says_that_it_has_no_firewall",
        ]),
    ),
    row(
        28,
        "variables of a shell script",
        Not("each option has its own: bad_input::all_that_is_wrong_with_a_launch_is_told_at_once"),
    ),
    // Section 1.H.
    row(
        113,
        "attach",
        By(&[
            "addresses::containers_get_different_addresses_and_reach_each_other",
            "addresses::forms::addresses_are_had_in_each_form_and_stay_their_containers",
        ]),
    ),
    row(
        114,
        "forms of addresses",
        By(&["addresses::forms::addresses_are_had_in_each_form_and_stay_their_containers"]),
    ),
    row(
        115,
        "attach again",
        By(&[
            "attach::attaching_again_changes_nothing",
            "addresses::forms::addresses_are_had_in_each_form_and_stay_their_containers",
        ]),
    ),
    row(
        116,
        "a route of the host",
        By(&[
            "attach::an_address_that_the_host_has_a_route_to_is_given_with_a_warning",
            "addresses::forms::a_range_that_the_host_has_a_route_to_is_refused_with_it_unless_it_is_given",
        ]),
    ),
    row(
        117,
        "somebody else's address",
        By(&[
            "addresses::forms::addresses_are_had_in_each_form_and_stay_their_containers",
            "documents::what_is_asked_for_in_vain_or_twice_ends_with_the_status_that_says_so",
        ]),
    ),
    row(
        118,
        "without address management",
        By(&["attach::what_a_user_has_chosen_comes_and_goes_whatever_becomes_of_address_management"]),
    ),
    row(
        119,
        "detach",
        By(&[
            "attach::a_container_is_reached_by_each_of_its_addresses_and_gives_them_back_one_by_one",
            "names::a_container_has_the_names_that_it_was_given_until_it_is_detached",
        ]),
    ),
    row(
        120,
        "detach and hide wait for nobody",
        By(&["attach::what_a_user_has_chosen_comes_and_goes_whatever_becomes_of_address_management"]),
    ),
    row(
        121,
        "a container's /etc/hosts",
        Not(
            "names are asked for: names::programs_in_a_namespace_resolve_by_the_file_that_attach_writes_and_detach_removes",
        ),
    ),
    row(122, "attach without names", By(&["names::names_are_answered_where_and_how_the_options_say"])),
    row(
        123,
        "subnets apart",
        By(&[
            "walls::containers_of_different_subnets_do_not_reach_each_other_on_one_host_or_on_two",
            "walls::a_host_that_is_exposed_in_two_subnets_joins_them_no_more_than_one_in_none",
        ]),
    ),
    row(
        124,
        "expose",
        By(&[
            "expose::an_exposed_host_reaches_the_containers_of_its_subnet_until_it_hides",
            "expose::packets_to_and_from_the_outside_take_on_the_hosts_address",
        ]),
    ),
    row(
        125,
        "without masquerade",
        By(&[
            "expose::packets_to_and_from_the_outside_take_on_the_hosts_address",
            "expose::containers_of_other_hosts_are_reached_by_an_exposed_host",
        ]),
    ),
    row(
        126,
        "names of a host",
        By(&["expose::a_host_bears_names_at_its_addresses_until_it_hides_also_after_a_restart"]),
    ),
    row(127, "hide", By(&["expose::an_exposed_host_reaches_the_containers_of_its_subnet_until_it_hides"])),
    row(
        128,
        "exposed again",
        By(&[
            "expose::what_is_exposed_is_so_again_after_a_restart_of_the_router_and_of_the_host",
            "machines::a_host_that_is_rebooted_has_its_router_containers_addresses_and_names_again",
        ]),
    ),
    row(
        129,
        "from third hosts",
        By(&[
            "expose::containers_of_other_hosts_are_reached_by_an_exposed_host",
            "expose::a_port_of_an_exposed_host_leads_to_a_container_by_a_rule_of_the_users",
        ]),
    ),
    row(130, "ps", By(&["attach::ps_tells_what_is_in_the_namespaces"])),
    row(
        131,
        "containers of Docker",
        By(&["docker::containers_on_two_hosts_are_attached_by_name_and_reach_each_other"]),
    ),
    row(
        132,
        "the interface's name",
        By(&["attach::an_interface_can_have_another_name_and_a_container_two_of_them"]),
    ),
    row(
        133,
        "dead containers keep their address for a while",
        By(&["docker::a_container_that_is_restarted_killed_or_removed_keeps_or_loses_its_place"]),
    ),
    // Section 1.Q.
    row(231, "connect", By(&["peering::connect_adds_targets_and_replaces_them_when_told"])),
    row(232, "forget", By(&["peering::forget_keeps_the_connection_and_ends_the_dialling"])),
    row(233, "expose", By(&["expose::an_exposed_host_reaches_the_containers_of_its_subnet_until_it_hides"])),
    row(
        234,
        "settings",
        By(&[
            "documents::each_view_of_status_answers_in_json_and_in_text",
            "names::names_are_answered_where_and_how_the_options_say",
        ]),
    ),
    row(
        235,
        "waiting for the ring",
        By(&[
            "addresses::forms::seeds_found_the_network_apart_and_an_observer_never_does",
            "addresses::founding::a_host_whose_peers_never_come_says_what_it_waits_for_and_what_can_be_done",
        ]),
    ),
    row(
        236,
        "allocate",
        By(&[
            "addresses::forms::addresses_are_had_in_each_form_and_stay_their_containers",
            "addresses::founding::a_host_whose_peers_never_come_says_what_it_waits_for_and_what_can_be_done",
        ]),
    ),
    row(
        237,
        "allocate in a subnet",
        By(&["addresses::forms::addresses_are_had_in_each_form_and_stay_their_containers"]),
    ),
    row(238, "lookup", By(&["addresses::forms::addresses_are_had_in_each_form_and_stay_their_containers"])),
    row(
        239,
        "claim",
        By(&["documents::what_is_asked_for_in_vain_or_twice_ends_with_the_status_that_says_so"]),
    ),
    row(
        240,
        "release",
        By(&["documents::what_is_asked_for_in_vain_or_twice_ends_with_the_status_that_says_so"]),
    ),
    row(
        241,
        "all holders in one list",
        Not("attachments: attach::ps_tells_what_is_in_the_namespaces; shares: status ipam"),
    ),
    row(
        242,
        "where names are asked",
        By(&["names::names_are_added_listed_looked_up_and_taken_back_and_outlive_the_router"]),
    ),
    row(
        243,
        "add a name",
        By(&["names::names_are_added_listed_looked_up_and_taken_back_and_outlive_the_router"]),
    ),
    row(
        244,
        "take it back",
        By(&["names::names_are_added_listed_looked_up_and_taken_back_and_outlive_the_router"]),
    ),
    row(
        245,
        "list names",
        By(&["names::names_are_added_listed_looked_up_and_taken_back_and_outlive_the_router"]),
    ),
    row(
        246,
        "hand space over",
        By(&["addresses::state::a_host_that_was_reset_gives_its_space_away_and_gets_some_again"]),
    ),
    row(
        247,
        "take space over",
        By(&[
            "addresses::space_of_a_peer_that_is_gone_for_good_is_taken_over",
            "addresses::space::a_peer_that_is_retired_on_two_hosts_at_once_leaves_its_space_to_one",
        ]),
    ),
    row(
        248,
        "views of status",
        By(&[
            "metrics::the_documents_are_those_of_the_command_line",
            "metrics::whoever_asks_badly_or_slowly_is_turned_away_and_disturbs_nobody",
            "documents::what_is_asked_for_in_vain_or_twice_ends_with_the_status_that_says_so",
        ]),
    ),
    row(249, "report", By(&["doctor::a_report_has_every_view_and_the_secret_is_seen_nowhere"])),
    row(250, "metrics", By(&["metrics::prometheus_takes_the_metrics_and_they_tell_of_what_has_passed"])),
    row(251, "addresses of the Docker proxy", Not("there is no proxy")),
    row(
        252,
        "no profiler on the port",
        By(&["metrics::whoever_asks_badly_or_slowly_is_turned_away_and_disturbs_nobody"]),
    ),
    row(253, "sections of status", By(&["documents::each_view_of_status_answers_in_json_and_in_text"])),
    row(
        254,
        "states of address management",
        By(&[
            "addresses::founding::a_host_whose_peers_never_come_says_what_it_waits_for_and_what_can_be_done",
            "addresses::forms::seeds_found_the_network_apart_and_an_observer_never_does",
            "addresses::space::four_hosts_exhaust_a_range_at_once_and_what_is_freed_comes_back",
            "addresses::space::a_peer_that_is_retired_on_two_hosts_at_once_leaves_its_space_to_one",
        ]),
    ),
    row(
        255,
        "status connections",
        By(&[
            "peering::each_state_of_a_connection_is_shown_with_its_reason",
            "documents::each_view_of_status_answers_in_json_and_in_text",
        ]),
    ),
    row(
        256,
        "status peers",
        By(&[
            "mesh::each_router_names_all_three_peers_with_two_established_connections_each",
            "documents::each_view_of_status_answers_in_json_and_in_text",
        ]),
    ),
    row(
        257,
        "status dns",
        By(&["names::names_are_added_listed_looked_up_and_taken_back_and_outlive_the_router"]),
    ),
    row(258, "keys of a report", By(&["doctor::a_report_has_every_view_and_the_secret_is_seen_nowhere"])),
    row(
        259,
        "keys of the router",
        By(&[
            "documents::each_view_of_status_answers_in_json_and_in_text",
            "shapes::status_tells_the_routes",
            "bridging::status_tells_which_peer_each_mac_is_at_and_forgets_those_of_a_peer_that_is_gone",
        ]),
    ),
    row(
        260,
        "keys of addresses",
        By(&[
            "addresses::founding::a_host_whose_peers_never_come_says_what_it_waits_for_and_what_can_be_done",
        ]),
    ),
    row(
        261,
        "keys of names",
        By(&["names::names_are_added_listed_looked_up_and_taken_back_and_outlive_the_router"]),
    ),
    row(
        262,
        "metrics agree with status",
        By(&["metrics::prometheus_takes_the_metrics_and_they_tell_of_what_has_passed"]),
    ),
    row(
        263,
        "a scrape without address management",
        By(&["metrics::each_reason_of_a_drop_is_in_the_metrics_and_what_was_dropped_in_status"]),
    ),
    row(
        264,
        "what was captured and dropped",
        By(&["metrics::each_reason_of_a_drop_is_in_the_metrics_and_what_was_dropped_in_status"]),
    ),
    row(
        265,
        "a line of the log",
        By(&["lifecycle::a_log_is_as_long_as_was_asked_for_and_of_the_form_that_was_asked_for"]),
    ),
    // Section 1.R.
    row(
        266,
        "forwarding",
        By(&[
            "walls::a_host_that_exposes_nothing_forwards_nothing_into_the_network_or_out_of_it",
            "expose::forwarding_survives_a_policy_of_iptables_and_leaves_no_trace_of_it",
        ]),
    ),
    row(
        267,
        "the host's ports",
        By(&[
            "walls::a_container_reaches_no_port_of_the_host_but_what_exposing_is_for",
            "names::docker_s_bridge_is_served_as_soon_as_it_is_there_and_as_long",
        ]),
    ),
    row(
        268,
        "masquerade",
        By(&[
            "expose::packets_to_and_from_the_outside_take_on_the_hosts_address",
            "expose::within_the_network_no_source_is_rewritten",
        ]),
    ),
    row(
        269,
        "a policy of FORWARD",
        By(&["expose::forwarding_survives_a_policy_of_iptables_and_leaves_no_trace_of_it"]),
    ),
    row(
        270,
        "rules that somebody flushes",
        By(&[
            "walls::the_firewall_is_back_within_a_second_after_somebody_flushes_it",
            "walls::tables_of_others_are_as_they_were",
        ]),
    ),
    row(
        271,
        "groups of other subnets",
        By(&["walls::a_group_has_its_members_in_the_subnet_of_whoever_speaks"]),
    ),
    row(
        272,
        "plain packets to a host that encrypts",
        By(&[
            "never_in_clear::the_wire_shows_nothing_in_clear_whatever_happens",
            "vxlan::encrypted_links_never_use_vxlan_in_clear",
        ]),
    ),
    row(273, "the lock of iptables", By(&["expose::a_lock_of_iptables_that_somebody_holds_is_waited_for"])),
];

const fn row(number: u16, about: &'static str, shown: Shown) -> Row {
    Row { number, about, shown }
}

#[test]
fn each_row_of_a_hosts_sections_has_its_scenarios() -> Result<()> {
    let listed = Command::new(env::current_exe()?).args(["--list", "--format", "terse"]).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    let scenarios: BTreeSet<_> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    for Row { number, about, shown } in ROWS {
        match shown {
            By(names) => {
                ensure!(!names.is_empty(), "row {number}, {about}: nothing shows it");
                for name in *names {
                    ensure!(scenarios.contains(name), "row {number}, {about}: there is no scenario {name}");
                }
            }
            Not(why) => ensure!(!why.is_empty(), "row {number}, {about}: why not?"),
        }
    }
    let numbers: Vec<_> = ROWS.iter().map(|row| row.number).collect();
    let wanted: Vec<_> = (1..=28).chain(113..=133).chain(231..=273).collect();
    ensure!(numbers == wanted, "rows are missing, or out of order");
    Ok(())
}
