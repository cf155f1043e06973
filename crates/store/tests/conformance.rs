//! What every store must do, run on each of them: `sqlite::*` and `postgres::*` are the same tests.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is the report of a test")]

#[path = "conformance/keys.rs"]
mod keys;
#[path = "conformance/place.rs"]
mod place;

#[path = "conformance/chat.rs"]
mod chat;
#[path = "conformance/events.rs"]
mod events;
#[path = "conformance/leases.rs"]
mod leases;
#[path = "conformance/mail.rs"]
mod mail;
#[path = "conformance/profile.rs"]
mod profile;
#[path = "conformance/query.rs"]
mod query;
#[path = "conformance/restart.rs"]
mod restart;
#[path = "conformance/retention.rs"]
mod retention;
#[path = "conformance/sessions.rs"]
mod sessions;
#[path = "conformance/social.rs"]
mod social;
#[path = "conformance/social_limits.rs"]
mod social_limits;
#[path = "conformance/social_model.rs"]
mod social_model;

/// Makes one test for each store out of each function.
macro_rules! on_each_store {
    ($($module:ident :: $name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(super::place::Place::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(super::place::Place::postgres()).await;
            })*
        }
    };
}

on_each_store![
    events::events_are_numbered_and_found,
    events::a_repeat_is_answered_with_the_first_seq,
    events::the_latest_does_not_depend_on_arrival,
    events::an_old_version_in_a_later_batch_stays_old,
    events::writers_at_once_share_one_order,
    events::odd_text_is_kept,
    events::a_thread_without_a_runtime_can_write,
    query::answers_are_those_of_a_plain_list,
    query::long_runs_are_read_in_every_order,
    retention::expired_events_go,
    retention::old_events_go_and_the_cursor_knows,
    retention::the_oldest_bytes_go,
    retention::what_was_read_before_is_gone_too,
    retention::old_versions_go_and_the_latest_stays,
    retention::a_seq_is_never_used_twice,
    leases::grants_are_kept_and_tokens_grow,
    leases::a_held_lock_survives_a_restart,
    leases::a_waiter_gets_the_lock,
    leases::a_fence_is_judged_at_its_place_in_the_order,
    leases::tokens_grow_after_history_is_deleted,
    leases::history_is_read_in_pages,
    leases::history_of_a_lock_is_whole_after_a_restart,
    leases::a_told_expiry_is_durable,
    leases::tokens_are_raised_for_a_restored_store,
    restart::what_was_acknowledged_survives_without_a_close,
    restart::a_second_process_is_refused,
    restart::a_newer_schema_is_refused,
    restart::a_closed_store_says_so,
    sessions::proofs_start_sessions_until_they_are_revoked,
    sessions::a_resume_token_is_good_once,
    sessions::the_oldest_sessions_make_room,
    sessions::a_device_keeps_its_credential,
    sessions::what_expired_is_swept,
    sessions::operators_tokens_are_counted,
    sessions::the_audit_log_is_read_backwards,
    social::events_come_back_byte_for_byte,
    social::a_delete_takes_its_subject_out,
    social::feeds_are_paged_without_a_gap,
    social::counters_are_those_of_a_plain_list,
    social::claims_are_found_with_their_vouch,
    social::texts_are_found_while_they_are_current,
    social::topics_are_counted_by_the_hour,
    social::operators_and_owners_are_obeyed,
    social_limits::single_identities_have_quotas_of_their_own,
    social_limits::what_an_identity_may_hold_is_bounded,
    social::a_large_purge_tells_every_change,
    social_model::answers_are_those_of_a_naive_model,
    sessions::a_revocation_beats_sessions_that_start_beside_it,
    chat::messages_are_numbered_without_gaps,
    chat::governance_is_all_or_nothing,
    chat::blocks_hold_in_both_directions,
    chat::cursors_and_marks_only_rise,
    chat::retention_waits_for_readers_unless_told_otherwise,
    mail::other_homes_are_told_in_order,
    mail::mail_is_taken_once,
    mail::blocks_are_told_and_kept_elsewhere,
    mail::a_stranger_gets_the_last_resort_alone,
    mail::a_welcome_of_another_home_needs_its_key_package,
    mail::devices_are_pushed_to_where_they_said_last,
    profile::one_commit_wins_each_epoch,
    profile::a_bundle_is_all_or_nothing,
    profile::a_key_package_is_handed_out_once,
    profile::full_and_expired_pools,
    chat::vaults_blobs_and_users,
];
