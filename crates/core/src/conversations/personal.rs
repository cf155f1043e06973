//! The conversation list and what each user has set for themselves (`gateway.md` 9).

use std::cmp::Reverse;

use relay_proto::{
    NodeId, Problem,
    conv::{
        Answer, Caller, ConvId,
        answer::{
            AllReadAnswer, ListAnswer, ListItem, Ok as Status, ReadAnswer, StateAnswer, StateSet,
            unread_count,
        },
        request::{Archive, List, MarkAllRead, MarkRead, MuteFlag, Pin, SetLabel, SetTitle},
    },
};
use relay_store::chat::{ConversationView, PersonalChange, PersonalOutcome};

use super::{Conversations, rooms::forbidden};
use crate::failure::store_problem;

/// The longest title or label, characters.
const MAX_NAME: usize = 64;
/// The longest page of the list.
const MAX_PAGE: u64 = 500;

impl Conversations {
    pub(super) async fn list(&self, caller: &Caller, list: List) -> Result<Answer, Problem> {
        let views = self.views(caller.user).await?;
        let views = views.into_iter().filter(|view| list.include_archived || !view.archived);
        let items = views.map(|view| item(view, &caller.user)).collect();
        page_of(items, &list).map(Answer::List)
    }

    pub(super) async fn mark_read(
        &self,
        caller: &Caller,
        mark: MarkRead,
    ) -> Result<Answer, Problem> {
        let change = PersonalChange::ReadTo(mark.to_seq);
        let outcome = self.set(caller, &mark.conv_id, change).await?;
        let PersonalOutcome::Read(read) = outcome else { return Err(forbidden()) };
        Ok(Answer::Read(ReadAnswer {
            status: Status::Ok,
            conv_id: mark.conv_id,
            last_read_seq: read.last_read_seq,
            unread_count: unread_count(
                read.latest_seq,
                read.earliest_seq,
                Some(read.last_read_seq),
            ),
        }))
    }

    pub(super) async fn mark_all_read(
        &self,
        caller: &Caller,
        mark: MarkAllRead,
    ) -> Result<Answer, Problem> {
        let views = self.views(caller.user).await?;
        let mut updated = Vec::new();
        for view in views {
            let wanted = (mark.include_archived || !view.archived)
                && (mark.include_muted || !view.muted)
                && unread_count(view.latest_seq, view.earliest_seq, view.last_read_seq) > 0;
            // Who was removed meanwhile has nothing to mark.
            if wanted && self.set(caller, &view.conv, PersonalChange::ReadTo(None)).await.is_ok() {
                updated.push(view.conv);
            }
        }
        updated.sort_unstable();
        Ok(Answer::AllRead(AllReadAnswer {
            status: Status::Ok,
            updated: updated.len() as u64,
            updated_conv_ids: updated,
            unreachable: Vec::new(),
        }))
    }

    pub(super) async fn set_title(
        &self,
        caller: &Caller,
        asked: SetTitle,
    ) -> Result<Answer, Problem> {
        let title = asked.title.split_whitespace().collect::<Vec<_>>().join(" ");
        check_name(&title, "title")?;
        let conv = asked.conv_id;
        let set = self.store.set_title(conv.clone(), caller.user, title.clone()).await;
        if !set.map_err(|error| store_problem(&error))? {
            return Err(forbidden());
        }
        Ok(state(conv, StateSet::Title { title }))
    }

    pub(super) async fn set_label(
        &self,
        caller: &Caller,
        asked: SetLabel,
    ) -> Result<Answer, Problem> {
        let label = asked.label.trim().to_owned();
        check_name(&label, "label")?;
        self.set(caller, &asked.conv_id, PersonalChange::Label(label.clone())).await?;
        Ok(state(asked.conv_id, StateSet::Label { label }))
    }

    pub(super) async fn pin(&self, caller: &Caller, asked: Pin) -> Result<Answer, Problem> {
        let pinned_at_ms = if asked.pinned { self.now_ms() } else { 0 };
        self.set(caller, &asked.conv_id, PersonalChange::PinnedAtMs(pinned_at_ms)).await?;
        Ok(state(asked.conv_id, StateSet::Pinned { pinned: asked.pinned, pinned_at_ms }))
    }

    pub(super) async fn mute(&self, caller: &Caller, asked: MuteFlag) -> Result<Answer, Problem> {
        self.set(caller, &asked.conv_id, PersonalChange::Muted(asked.muted)).await?;
        Ok(state(asked.conv_id, StateSet::Muted { muted: asked.muted }))
    }

    pub(super) async fn archive(&self, caller: &Caller, asked: Archive) -> Result<Answer, Problem> {
        self.set(caller, &asked.conv_id, PersonalChange::Archived(asked.archived)).await?;
        Ok(state(asked.conv_id, StateSet::Archived { archived: asked.archived }))
    }

    async fn views(&self, user: NodeId) -> Result<Vec<ConversationView>, Problem> {
        self.store.conversations_of(user).await.map_err(|error| store_problem(&error))
    }

    async fn set(
        &self,
        caller: &Caller,
        conv: &ConvId,
        change: PersonalChange,
    ) -> Result<PersonalOutcome, Problem> {
        let outcome = self.store.set_personal(conv.clone(), caller.user, change).await;
        match outcome.map_err(|error| store_problem(&error))? {
            PersonalOutcome::NotMember => Err(forbidden()),
            done => Ok(done),
        }
    }
}

/// The part of a list that was asked for, in the order of `gateway.md` 9.
///
/// # Errors
/// `invalid_request` for a cursor of something that is not on the list.
pub fn page_of(mut items: Vec<ListItem>, list: &List) -> Result<ListAnswer, Problem> {
    items.sort_by(|a, b| {
        let key = |item: &ListItem| {
            (Reverse(item.pinned), Reverse(item.pinned_at_ms), item.created_at_ms)
        };
        key(a).cmp(&key(b)).then_with(|| a.conv_id.cmp(&b.conv_id))
    });
    if let Some(cursor) = &list.cursor {
        let last = items.iter().position(|item| item.conv_id.as_str() == cursor);
        let last = last.ok_or_else(|| Problem::invalid("the cursor names nothing any more"))?;
        items.drain(..=last);
    }
    let limit = list.limit.map_or(usize::MAX, |limit| limit.clamp(1, MAX_PAGE) as usize);
    let more = items.len() > limit;
    items.truncate(limit);
    let cursor = items.last().filter(|_| more).map(|item| item.conv_id.to_string());
    Ok(ListAnswer { items, cursor, unreachable: Vec::new() })
}

fn state(conv_id: ConvId, set: StateSet) -> Answer {
    Answer::State(StateAnswer { status: Status::Ok, conv_id, set })
}

fn check_name(name: &str, what: &str) -> Result<(), Problem> {
    if name.chars().count() > MAX_NAME || name.contains('\0') {
        return Err(Problem::invalid(format!("{what} has at most {MAX_NAME} characters")));
    }
    Ok(())
}

fn item(view: ConversationView, user: &NodeId) -> ListItem {
    let display_name = display_name(&view, user);
    let stored = view.latest_seq >= view.earliest_seq;
    let kept = |seq: u64| stored.then_some(seq);
    ListItem {
        role: view.role,
        created_at_ms: view.created_at_ms,
        home_gateway: view.home,
        profile: view.profile,
        kind: view.kind,
        member_count: view.member_count,
        members: view.members,
        title: view.title,
        label: view.label,
        pinned: view.pinned_at_ms > 0,
        pinned_at_ms: view.pinned_at_ms,
        muted: view.muted,
        archived: view.archived,
        earliest_seq: kept(view.earliest_seq),
        latest_seq: kept(view.latest_seq),
        latest_ts_ms: kept(view.latest_ts_ms),
        last_read_seq: view.last_read_seq,
        unread_count: unread_count(view.latest_seq, view.earliest_seq, view.last_read_seq),
        display_name,
        conv_id: view.conv,
    }
}

fn display_name(view: &ConversationView, user: &NodeId) -> String {
    if !view.label.is_empty() {
        return view.label.clone();
    }
    if !view.title.is_empty() {
        return view.title.clone();
    }
    let members = view.members.as_deref().filter(|members| members.len() == 2);
    match members.and_then(|members| members.iter().find(|member| *member != user)) {
        Some(other) => format!("DM with {other}"),
        None => view.conv.to_string(),
    }
}
