//! polkit: asked whether somebody may administer who is not root.
//!
//! It is asked about who sent the call, never about the daemon, on a connection of its own that is closed when its
//! answer is there or nobody wants it any more: polkit ends a dialog when the one who asked for it leaves the bus. So
//! nothing need be cancelled, and nobody else of the bus waits. (One method, for which a library would be more than
//! this file.)

use super::Failure;
use super::manager::{self, Identify, Manager};
use crate::policy::{Administration, Caller, Decision, may_administer, may_be_authorized};
use portbroker_client::wire::{DETAIL_CHALLENGE, ErrorName, MAX_AUTHENTICATION, OPTION_INTERACTIVE};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zbus::connection::Builder;
use zbus::fdo::Error as Standard;
use zbus::message::{Flags, Header, Message};
use zbus::proxy::CacheProperties;
use zbus::{Fd, OwnedVariant, Variant};

/// How long polkit may think, where it asks nobody.
const THINKS: Duration = Duration::from_secs(10);
/// What systemd may need to see that polkit ended: a start before that is none, and the bus would wait for it in vain.
const IS_GONE: Duration = Duration::from_millis(500);
/// How long somebody may take to authenticate.
const AUTHENTICATES: Duration = Duration::from_secs(MAX_AUTHENTICATION);
/// Questions at a time: of all callers, and of one user. Each is a connection to the bus, which lets one user have 256.
const QUESTIONS: usize = 32;
const QUESTIONS_OF_ONE: usize = 4;
/// Flag of CheckAuthorization: an agent may ask the user.
const ALLOW_USER_INTERACTION: u32 = 1;
/// The members that may have to ask.
const MEMBERS: [&str; 4] = ["Reload", "Release", "DrainAddress", "Evict"];

#[zbus::proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn check_authorization(
        &self,
        subject: &(&str, HashMap<&str, Variant<'_>>),
        action: &str,
        details: &HashMap<&str, &str>,
        flags: u32,
        cancellation: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
}

/// Whom polkit is asked about.
#[derive(Debug)]
pub(super) enum Subject {
    /// Who sends on the system bus, by its unique name, which a bus never gives twice.
    Sender(String),
    /// The peer of a connection.
    Process {
        /// Its pid.
        pid: i32,
        /// When it started, read while `pidfd` showed it alive.
        started: u64,
        /// Its user, by the kernel's word.
        uid: u32,
        /// Itself: polkit takes it from version 124 on, and pid, start and user before.
        pidfd: Option<Arc<OwnedFd>>,
    },
}

impl Subject {
    fn to_wire(&self) -> (&'static str, HashMap<&'static str, Variant<'_>>) {
        match self {
            Self::Sender(name) => {
                ("system-bus-name", HashMap::from([("name", Variant::from(name.as_str()))]))
            }
            Self::Process { pid, started, uid, pidfd } => {
                let mut details = HashMap::from([
                    ("pid", Variant::U32(pid.cast_unsigned())),
                    ("start-time", Variant::U64(*started)),
                    ("uid", Variant::I32(uid.cast_signed())),
                ]);
                if let Some(pidfd) = pidfd {
                    details.insert("pidfd", Variant::Fd(Fd::from(&**pidfd)));
                }
                ("unix-process", details)
            }
        }
    }
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) action: Administration,
    /// To whom or what: rules see it, and it stands in for `$(key)` in the message of the dialog.
    pub(super) details: Vec<(&'static str, String)>,
    /// Whether the user may be asked for a password.
    pub(super) interactive: bool,
}

/// What polkit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    /// The user would have to authenticate, and was not to be asked.
    Challenge,
    /// The user was asked and did not want to.
    Dismissed,
}

/// Why polkit says nothing.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("the broker was started with --no-bus")]
    Unwanted,
    #[error("this process is gone, or of another system than the broker")]
    NoSubject,
    #[error("there is no system bus here ({0})")]
    NoBus(zbus::Error),
    #[error("there is no polkit on the system bus")]
    NoPolkit,
    #[error("it went away before it answered")]
    Gone,
    #[error("it did not answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("it answers with an error: {0}")]
    Error(zbus::Error),
}

impl From<zbus::Error> for Silence {
    fn from(error: zbus::Error) -> Self {
        match &error {
            zbus::Error::FDO(standard) => match **standard {
                Standard::ServiceUnknown(_) | Standard::NameHasNoOwner(_) => Self::NoPolkit,
                Standard::NoReply(_) | Standard::Disconnected(_) => Self::Gone,
                _ => Self::Error(error),
            },
            // What activates services on the bus says so of one that is masked, or whose start failed.
            zbus::Error::MethodError(name, ..)
                if name.as_str().starts_with("org.freedesktop.systemd1.")
                    || name.as_str().starts_with("org.freedesktop.DBus.Error.Spawn.") =>
            {
                Self::NoPolkit
            }
            zbus::Error::InputOutput(_) => Self::Gone,
            _ => Self::Error(error),
        }
    }
}

/// A question in the works.
struct Place(u32);

/// There is one polkit on a host, whatever way its questions come.
static IN_WORKS: Mutex<BTreeMap<u32, usize>> = Mutex::new(BTreeMap::new());

fn in_works() -> MutexGuard<'static, BTreeMap<u32, usize>> {
    IN_WORKS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    fn take(uid: u32) -> Option<Self> {
        let mut all = in_works();
        let of_one = all.get(&uid).copied().unwrap_or_default();
        if all.values().sum::<usize>() >= QUESTIONS || of_one >= QUESTIONS_OF_ONE {
            return None;
        }
        all.insert(uid, of_one + 1);
        Some(Self(uid))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = in_works();
        match all.get_mut(&self.0) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(all.remove(&self.0)),
        }
    }
}

/// The caller as one who may do this, for this call: an administrator as it is, and anybody else whom polkit lets. The
/// one way to everything that administers and is not for root alone.
pub(super) async fn authorize(
    manager: &Manager,
    question: Question,
    call: &Header<'_>,
    who: &impl Identify,
    caller: Caller,
) -> Result<Caller, Failure> {
    if may_administer(&caller) == Decision::Allowed {
        return Ok(caller);
    }
    if let Decision::Denied(reason) = may_be_authorized(&caller) {
        let denial = Denial { told: "only root may".to_owned(), reason: reason.to_owned(), challenge: false };
        return Err(denial.refuse(manager, question.action, &caller));
    }
    let Caller { uid, pid, .. } = caller;
    let Some(_place) = Place::take(uid) else {
        let text = "polkit is asked too many questions at once: wait for the answers to yours";
        return Err(Failure::standard("LimitsExceeded", text));
    };
    let subject = if manager.asks_polkit {
        who.subject(call).await?.ok_or(Silence::NoSubject)
    } else {
        Err(Silence::Unwanted)
    };
    let (what, id) = (question.action.words(), question.action.id());
    match ask(subject, &question).await {
        Ok(Answer::Yes) => {
            tracing::info!(
                event = "authorized",
                action = id,
                uid,
                pid,
                "polkit lets pid {pid} of user {uid} {what} ({id})"
            );
            Ok(Caller { administrator: true, ..caller })
        }
        answer => Err(Denial::of(answer, &question).refuse(manager, question.action, &caller)),
    }
}

/// Why somebody may not: for the caller, and for the log.
struct Denial {
    told: String,
    reason: String,
    /// Whether it would be another thing after an authentication.
    challenge: bool,
}

impl Denial {
    fn of(answer: Result<Answer, Silence>, question: &Question) -> Self {
        let challenge = matches!(answer, Ok(Answer::Challenge));
        let (id, interactive) = (question.action.id(), question.interactive);
        let (told, reason) = match answer {
            Ok(Answer::Challenge) => (
                format!(
                    "only root may, and who authenticates to polkit ({id}): ask for that, from a terminal or a session"
                ),
                if interactive {
                    "polkit wants an authentication, and has no agent to ask for it".to_owned()
                } else {
                    "polkit wants an authentication, and nobody was to be asked".to_owned()
                },
            ),
            Ok(Answer::Dismissed) => (
                format!("the authentication was dismissed ({id})"),
                "the authentication was dismissed".into(),
            ),
            // It does not tell these two apart.
            Ok(Answer::Yes | Answer::No) if interactive => (
                format!(
                    "only root may, and whom polkit lets ({id}): the authentication failed, or a rule forbids it"
                ),
                "polkit says no, with or without an authentication that failed".to_owned(),
            ),
            Ok(Answer::Yes | Answer::No) => {
                (format!("only root may, and whom polkit lets ({id})"), "polkit says no".to_owned())
            }
            Err(silence) => (
                format!("only root may, for polkit cannot be asked: {silence}"),
                format!("no word of polkit: {silence}"),
            ),
        };
        Self { told, reason, challenge }
    }

    /// The answer to the caller, with an event in the log.
    fn refuse(self, manager: &Manager, action: Administration, caller: &Caller) -> Failure {
        let Self { told, reason, challenge } = self;
        let (what, &Caller { uid, pid, .. }) = (action.words(), caller);
        if manager.broker.gate().has_a_line(&manager.broker.turn().who(), "refusal") {
            tracing::warn!(
                event = "refusal",
                action = action.id(),
                reason,
                uid,
                pid,
                "refused pid {pid} of user {uid} to {what}: {reason}"
            );
        }
        let details = challenge.then_some((DETAIL_CHALLENGE, Variant::Bool(true)));
        let refused = Failure::ours(ErrorName::NotAllowed, format!("you may not {what}: {told}"));
        Failure { details: details.into_iter().collect(), ..refused }
    }
}

/// Asks polkit. Dropped before it is done, the question is withdrawn, and a dialog with it.
async fn ask(subject: Result<Subject, Silence>, question: &Question) -> Result<Answer, Silence> {
    let subject = subject?;
    let patience = if question.interactive { AUTHENTICATES } else { THINKS };
    let asked = async {
        match check(&subject, question).await {
            // It may end at any time (126 now and then does with a question), and the next one starts it.
            Err(Silence::Gone) => {
                tokio::time::sleep(IS_GONE).await;
                check(&subject, question).await
            }
            answer => answer,
        }
    };
    tokio::time::timeout(patience, asked).await.unwrap_or(Err(Silence::Late(patience)))
}

async fn check(subject: &Subject, question: &Question) -> Result<Answer, Silence> {
    let connection = Builder::system().build().await.map_err(Silence::NoBus)?;
    let authority =
        AuthorityProxy::builder(&connection).cache_properties(CacheProperties::No).build().await?;
    let details: HashMap<&str, &str> =
        question.details.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let flags = if question.interactive { ALLOW_USER_INTERACTION } else { 0 };
    let answered =
        authority.check_authorization(&subject.to_wire(), question.action.id(), &details, flags, "").await;
    let (is_authorized, is_challenge, details) = answered?;
    Ok(match (is_authorized, is_challenge) {
        (true, _) => Answer::Yes,
        (false, true) => Answer::Challenge,
        (false, false) if details.contains_key("polkit.dismissed") => Answer::Dismissed,
        (false, false) => Answer::No,
    })
}

/// Whether the user may be asked for a password: by the flag that D-Bus has for it, or by the option, for those who
/// cannot set the flag.
pub(super) fn is_interactive(
    call: &Header<'_>,
    options: &HashMap<String, OwnedVariant>,
) -> Result<bool, Failure> {
    let flag = call.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
    match options.get(OPTION_INTERACTIVE).map(|value| &**value) {
        None => Ok(flag),
        Some(Variant::Bool(interactive)) => Ok(flag || *interactive),
        Some(_) => {
            let text = format!("option {OPTION_INTERACTIVE:?} is true or false (b)");
            Err(Failure::ours(ErrorName::BadArgument, text))
        }
    }
}

/// The same of a member that has no other option.
pub(super) fn is_interactive_only(
    call: &Header<'_>,
    options: &HashMap<String, OwnedVariant>,
) -> Result<bool, Failure> {
    match options.keys().find(|key| *key != OPTION_INTERACTIVE) {
        Some(unknown) => Err(manager::no_such_option(unknown)),
        None => is_interactive(call, options),
    }
}

/// Whether a call may wait for somebody to authenticate: others of its connection are not to wait for its answer. It may
/// be wrong about one that does not.
pub(super) fn may_wait(message: &Message, call: &Header<'_>) -> bool {
    let asks = call.member().is_some_and(|member| MEMBERS.contains(&member.as_str()));
    let named = || {
        let body = message.body();
        body.data().windows(OPTION_INTERACTIVE.len()).any(|bytes| bytes == OPTION_INTERACTIVE.as_bytes())
    };
    asks && (call.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH) || named())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_does_not_take_all_questions() {
        let mut places: Vec<_> = (0..100).filter_map(|_| Place::take(7)).collect();
        assert_eq!(places.len(), QUESTIONS_OF_ONE);
        assert!(Place::take(8).is_some());
        places.pop();
        assert!(Place::take(7).is_some());
        places.extend((100..200).flat_map(|uid| [Place::take(uid), Place::take(uid)]).flatten());
        assert_eq!(places.len(), QUESTIONS);
        drop(places);
        assert!(in_works().is_empty());
    }

    #[test]
    fn a_process_is_told_in_all_ways_that_a_polkit_may_know() {
        let pidfd = Some(Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap())));
        let subject = Subject::Process { pid: 7, started: 4711, uid: 1000, pidfd };
        let (kind, details) = subject.to_wire();
        assert_eq!(kind, "unix-process");
        assert!(matches!(details["pid"], Variant::U32(7)) && matches!(details["uid"], Variant::I32(1000)));
        assert!(
            matches!(details["start-time"], Variant::U64(4711)) && matches!(details["pidfd"], Variant::Fd(_))
        );
        let sender = Subject::Sender(":1.7".into());
        let (kind, details) = sender.to_wire();
        assert_eq!((kind, details.len()), ("system-bus-name", 1));
    }

    #[test]
    fn whoever_is_refused_is_told_what_to_do() {
        let told = |answer, interactive| {
            let question = Question { action: Administration::Reload, details: Vec::new(), interactive };
            Denial::of(answer, &question).told
        };
        let asked = told(Ok(Answer::No), true);
        let told = |answer| told(answer, false);
        assert!(asked.contains("authentication failed") && !told(Ok(Answer::No)).contains("authentication"));
        assert!(told(Ok(Answer::No)).contains(Administration::Reload.id()));
        assert!(told(Ok(Answer::Challenge)).contains("terminal"));
        assert!(told(Err(Silence::NoPolkit)).contains("no polkit on the system bus"));
        assert!(told(Err(Silence::Late(THINKS))).contains("within 10 s"));
    }
}
