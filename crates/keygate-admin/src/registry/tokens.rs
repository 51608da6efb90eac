//! What may be done to admin tokens, and whom one lets in. A token's text is made here, returned once,
//! and kept nowhere.

use keygate_core::key::sha256;
use keygate_core::{AccountId, TokenId, UnixMillis};
use keygate_store::keys::{KeyStore, Page, Write};
use keygate_store::records::{AdminToken, AuditEntry, Fields, Role, TokenStatus, Version, changes};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::idempotency::Making;
use super::keys::TakenBack;
use super::{Actor, Asked, Expected, Made, Registry, RegistryError, random, to_its_end};

/// What every token begins with, so that a secret scanner knows one.
const PREFIX: &str = "kgat_";
const ENTROPY_LENGTH: usize = 32;
/// 32 bytes in base62 need at most that many; fewer are padded with `0`.
const BODY_LENGTH: usize = 43;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a token is revoked whose making was not acknowledged.
const NEVER_SHOWN: &str = "never shown: the write was not durable";

/// A token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub name: String,
    pub role: Role,
    pub expires_at: Option<UnixMillis>,
}

/// A token that was just made, and the only copy of its text.
pub struct CreatedToken {
    pub record: AdminToken,
    /// Nothing if the same call had made it before: a token is shown once.
    pub token: Option<Zeroizing<String>>,
}

impl CreatedToken {
    fn replayed(record: AdminToken) -> Self {
        Self { record, token: None }
    }
}

impl<S: KeyStore> Registry<S> {
    /// Makes an admin token from the operating system's randomness. Goes on to its end even if the
    /// caller stops waiting, which leaves a token that nobody knows; it is listed and audited.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`], [`RegistryError::UnknownAccount`], [`RegistryError::ExpiryInPast`],
    /// [`RegistryError::RequestReused`], [`RegistryError::TokenRevoked`], [`RegistryError::NotDurable`],
    /// [`RegistryError::Store`] and [`RegistryError::NoRandomness`].
    pub async fn create_token(
        &self,
        by: &Actor,
        new: NewToken,
        asked: Option<&Asked>,
    ) -> Result<CreatedToken, RegistryError> {
        by.require_admin()?;
        let (registry, by, asked) = (self.clone(), by.clone(), asked.copied());
        to_its_end(async move {
            let asked = asked.as_ref();
            let outcome = registry.try_create_token(&by, new, asked).await;
            let created = registry.or_before(asked, outcome, CreatedToken::replayed).await?;
            registry.shown_token(created).await
        })
        .await
    }

    async fn try_create_token(
        &self,
        by: &Actor,
        new: NewToken,
        asked: Option<&Asked>,
    ) -> Result<CreatedToken, RegistryError> {
        let now = self.now();
        if new.expires_at.is_some_and(|end| end <= now) {
            return Err(RegistryError::ExpiryInPast);
        }
        self.check_accounts(&new.role).await?;
        let (record, token) = minted(new, now)?;
        let mut audit = by.entry(now, "token.create", record.id.to_string());
        audit.changes = made(&record);
        match self.make(Write::CreateToken(record.clone()), audit, asked).await {
            Ok(Making::Now) => Ok(CreatedToken { record, token: Some(token) }),
            Ok(Making::Before(record)) => Ok(CreatedToken::replayed(record)),
            Err(RegistryError::NotDurable { made, replicas, wanted }) => {
                let made = match self.take_back_token(by, record.id).await {
                    TakenBack::Tried => Made::Token,
                    TakenBack::NotThere => made,
                };
                Err(RegistryError::NotDurable { made, replicas, wanted })
            }
            Err(error) => Err(error),
        }
    }

    async fn check_accounts(&self, role: &Role) -> Result<(), RegistryError> {
        let accounts: &[AccountId] = match role {
            Role::Issuer(accounts) => accounts,
            Role::Viewer | Role::Admin => &[],
        };
        for id in accounts {
            if self.store().account(*id).await?.is_none() {
                return Err(RegistryError::UnknownAccount(*id));
            }
        }
        Ok(())
    }

    /// Revokes a token that was made and that nobody will be shown.
    async fn take_back_token(&self, by: &Actor, id: TokenId) -> TakenBack {
        match self.revoke_token(by, id, Some(NEVER_SHOWN), &Expected::Any).await {
            Ok(_) | Err(RegistryError::NotDurable { .. }) => {}
            Err(RegistryError::NotFound(_)) => return TakenBack::NotThere,
            Err(error) => {
                tracing::warn!(%error, %id, "a token that nobody was shown could not be revoked");
            }
        }
        TakenBack::Tried
    }

    /// A token that was made by the same call before, unless it is revoked by now: a record does not
    /// say why, and to a caller who waits for it that is the same.
    async fn shown_token(&self, created: CreatedToken) -> Result<CreatedToken, RegistryError> {
        if created.token.is_some() {
            return Ok(created);
        }
        match self.store().token(created.record.id).await?.map(|now| now.status) {
            Some(TokenStatus::Active) => Ok(created),
            Some(TokenStatus::Revoked { .. }) | None => Err(RegistryError::TokenRevoked),
        }
    }

    /// # Errors
    /// [`RegistryError::Forbidden`], [`RegistryError::NotFound`] and [`RegistryError::Store`].
    pub async fn token(&self, by: &Actor, id: TokenId) -> Result<AdminToken, RegistryError> {
        by.require_viewer()?;
        self.store().token(id).await?.ok_or(RegistryError::NotFound("the admin token"))
    }

    /// # Errors
    /// [`RegistryError::Forbidden`] and [`RegistryError::Store`].
    pub async fn tokens(
        &self,
        by: &Actor,
        page: Page<TokenId>,
    ) -> Result<Vec<AdminToken>, RegistryError> {
        by.require_viewer()?;
        Ok(self.store().tokens(page).await?)
    }

    /// Revokes a token, for good. One that is revoked already stays as it is.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`], [`RegistryError::NotFound`],
    /// [`RegistryError::PreconditionFailed`], [`RegistryError::Conflict`],
    /// [`RegistryError::NotDurable`] and [`RegistryError::Store`]. After the last, the token may or may
    /// not be revoked: ask again.
    pub async fn revoke_token(
        &self,
        by: &Actor,
        id: TokenId,
        reason: Option<&str>,
        expected: &Expected,
    ) -> Result<AdminToken, RegistryError> {
        by.require_admin()?;
        expected.carry_out(|| self.try_revoke_token(by, id, reason, expected)).await
    }

    async fn try_revoke_token(
        &self,
        by: &Actor,
        id: TokenId,
        reason: Option<&str>,
        expected: &Expected,
    ) -> Result<AdminToken, RegistryError> {
        let before = self.token(by, id).await?;
        // The same call again, after it may have been lost, finds the token at another version.
        if matches!(before.status, TokenStatus::Revoked { .. }) {
            self.settle().await?;
            return Ok(before);
        }
        expected.check(before.version)?;
        let now = self.now();
        let status = TokenStatus::Revoked { at: now };
        let after = AdminToken { status, updated_at: now, ..before.clone() };
        let audit = AuditEntry {
            reason: reason.map(ToOwned::to_owned),
            changes: changes(Some(&before), &after),
            ..by.entry(now, "token.revoke", id.to_string())
        };
        self.commit(Write::UpdateToken(after.clone()), audit).await?;
        Ok(AdminToken { version: after.version.next(), ..after })
    }

    /// Whom a token with this hash lets in, if anybody: it is known, and neither revoked nor expired.
    /// Asks the store each time, so that a revocation holds from its acknowledgement on.
    ///
    /// # Errors
    /// [`RegistryError::Store`]: that says nothing about the token.
    pub(crate) async fn holder_of(
        &self,
        sha256: [u8; 32],
    ) -> Result<Option<(TokenId, Role)>, RegistryError> {
        let Some(token) = self.store().token_by_hash(sha256).await? else { return Ok(None) };
        let is_live = status(&token, self.now()) == "active";
        Ok(is_live.then_some((token.id, token.role)))
    }
}

/// What a token is now.
pub(crate) fn status(token: &AdminToken, now: UnixMillis) -> &'static str {
    match token.status {
        TokenStatus::Revoked { .. } => "revoked",
        TokenStatus::Active if token.expires_at.is_some_and(|end| end <= now) => "expired",
        TokenStatus::Active => "active",
    }
}

/// Whether a text may be a token that was made here: only then it is worth a look-up.
pub(crate) fn has_shape_of_token(text: &[u8]) -> bool {
    text.strip_prefix(PREFIX.as_bytes())
        .is_some_and(|body| body.len() == BODY_LENGTH && body.iter().all(u8::is_ascii_alphanumeric))
}

fn minted(
    new: NewToken,
    now: UnixMillis,
) -> Result<(AdminToken, Zeroizing<String>), RegistryError> {
    let entropy = Zeroizing::new(random::<ENTROPY_LENGTH>()?);
    let token = text(&entropy);
    let record = AdminToken {
        id: TokenId::new(now, random()?),
        name: new.name,
        role: new.role,
        sha256: sha256(token.as_bytes()),
        status: TokenStatus::Active,
        expires_at: new.expires_at,
        created_at: now,
        updated_at: now,
        version: Version::default(),
    };
    Ok((record, token))
}

/// The entropy as a number in base62, behind the prefix.
fn text(entropy: &[u8; ENTROPY_LENGTH]) -> Zeroizing<String> {
    let mut number = Zeroizing::new(*entropy);
    // The last digit first.
    let mut digits = Zeroizing::new([0_u8; BODY_LENGTH]);
    for digit in digits.iter_mut() {
        let rest = number.iter_mut().fold(0, |rest, byte| {
            let value = rest * 256 + u32::from(*byte);
            // Below 256, since the rest is below 62.
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            value % 62
        });
        let index = usize::try_from(rest).unwrap_or_default();
        *digit = BASE62.get(index).copied().unwrap_or(b'0');
    }
    // Room for all of it from the start: a text that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + BODY_LENGTH));
    text.push_str(PREFIX);
    text.extend(digits.iter().rev().map(|&digit| char::from(digit)));
    text
}

/// What the log says of a token that was made: what it lets its holder do.
fn made(record: &AdminToken) -> Map<String, Value> {
    let told = ["name", "role", "expires_at"];
    let fields = record.fields().into_iter().filter(|(name, _)| told.contains(&name.as_str()));
    fields.filter(|(_, value)| !value.is_null()).map(|(name, v)| (name, json!([null, v]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_published_shape_whatever_its_entropy() {
        for byte in [0, 1, 61, 62, 127, 255] {
            let token = text(&[byte; 32]);
            assert_eq!(token.len(), 48);
            assert!(has_shape_of_token(token.as_bytes()), "{byte}");
        }
    }

    /// Computed apart from this code, with Python's integers.
    #[test]
    fn entropy_is_written_as_one_number() {
        let mut one = [0; 32];
        one[31] = 61;
        assert_eq!(*text(&one), format!("kgat_{}z", "0".repeat(42)));
        one[31] = 62;
        assert_eq!(*text(&one), format!("kgat_{}10", "0".repeat(41)));
        let counting = std::array::from_fn(|at| u8::try_from(at).unwrap());
        assert_eq!(*text(&counting), "kgat_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf");
        assert_eq!(*text(&[255; 32]), "kgat_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1");
    }

    #[test]
    fn nothing_else_has_the_shape() {
        let token = text(&[7; 32]);
        for other in [
            "",
            "kgat_",
            &token[..47],
            &format!("{}x", *token),
            &token.replace("kgat_", "kga__"),
            &format!("{}-", &token[..47]),
            &format!(" {}", &token[..47]),
        ] {
            assert!(!has_shape_of_token(other.as_bytes()), "{other}");
        }
    }
}
