"""What a credential looks like: names, schemes and shapes, as data. `gateway.redaction` applies them.

Names are folded: lower case, without '-', '_', '.' and space, so one entry covers every spelling.
"""

from __future__ import annotations

RULES_VERSION = 1
"""Counted up when `gateway.redaction` treats the same tables otherwise; part of its RULES_HASH."""


def _words(text: str) -> frozenset[str]:
    """The words of `text`, folded."""
    return frozenset(text.replace("-", "").split())


STRONG_PARTS = (
    "apikey",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "cookie",
    "privatekey",
    "accesskey",
    "subscriptionkey",
)
"""A name that holds one of these anywhere holds a credential, whatever else it says."""

READABLE_PARTS = ("ratelimit", "websocketkey", "websocketaccept")
"""Names that only look secret: x-ratelimit-remaining-tokens and its kin, the websocket handshake's nonce (RFC 6455 section 4.1)."""

READABLE_SUFFIXES = ("idempotencykey", "cachekey", "surrogatekey", "partitionkey", "routingkey", "sortkey", "rowkey", "maxtoken")
"""Keys that open nothing."""

WEAK_SUFFIXES = ("token", "key", "signature", "auth", "authorization", "jwt", "assertion", "attestation", "bearer", "hmac")
"""A name that ends so holds a credential unless it is readable. `max_tokens` ends in "tokens" and is not meant."""

EXACT_NAMES = _words(
    """
    sig sign code pwd pass otp code-verifier oauth-verifier device-code user-code saml-response ticket upload-id dpop
    """
)
"""Whole names. uploadid: a resumable upload's URL is itself the credential (Google's "Resumable uploads")."""

QUERY_ONLY = frozenset({"code", "sign", "ticket", "pass"})
"""Those of them that are ordinary words elsewhere: in running text and JSON only a pair that stands as in a query counts."""

READABLE_IN_QUERY = frozenset({"pagetoken", "nextpagetoken", "nexttoken", "continuationtoken", "synctoken"})
"""Cursors of paged lists."""

HEADER_NAMES = _words(
    """
    chatgpt-account-id x-ms-client-principal authentication-info
    """
)
"""Whole header names beyond those the parts and suffixes find."""

HEADER_PREFIXES = ("cfaccess",)
"""Cloudflare Access: client id, secret and assertion."""

PROTOCOL_HEADER = "secwebsocketprotocol"

ORDINARY_HEADERS = _words(
    """
    accept accept-charset accept-encoding accept-language accept-ranges access-control-allow-credentials age allow alt-svc
    anthropic-beta anthropic-dangerous-direct-browser-access anthropic-organization-id anthropic-version cache-control cf-cache-status
    cf-ray connection content-disposition content-encoding content-language content-length content-range content-type date etag expect
    expires from host if-match if-modified-since if-none-match if-range if-unmodified-since keep-alive last-modified max-forwards
    openai-beta openai-organization openai-processing-ms openai-project openai-version pragma priority proxy-authenticate range
    request-id retry-after sec-websocket-accept sec-websocket-extensions sec-websocket-key sec-websocket-version server
    strict-transport-security te trailer transfer-encoding upgrade upgrade-insecure-requests user-agent vary via www-authenticate x-app
    x-content-type-options x-frame-options x-goog-api-client x-powered-by x-request-id x-verbatim-error x-verbatim-id x-verbatim-record
    x-verbatim-warning x-xss-protection
    """
)
"""Names whose values are never looked at, for speed: no client puts a key there."""

ORDINARY_PREFIXES = ("xstainless", "xratelimit", "anthropicratelimit", "secfetch", "secch", "accesscontrol")

SCHEMES = frozenset(
    {b"bearer", b"basic", b"token", b"digest", b"negotiate", b"ntlm", b"apikey", b"key", b"aws4-hmac-sha256", b"dpop", b"hmac", b"oauth"}
)
"""Authentication schemes (IANA registry and common practice) whose word stays readable before the credential."""

PROTOCOLS = frozenset(
    b"realtime openai-beta.realtime-v1 token bearer mcp json jsonrpc binary base64 chat superchat echo "
    b"graphql-ws graphql-transport-ws mqtt soap wamp.2.json".split()
)
"""Websocket subprotocols that stay readable; any other may be a key, as in `token, KEY` (Deepgram)."""

PROTOCOL_PREFIXES = (b"openai-insecure-api-key.", b"openai-ephemeral-token.", b"base64url.bearer.authorization.k8s.io.")
"""Subprotocols that carry a key after a known beginning; the beginning stays readable."""

KEY_SHAPES = (
    r"(?:sk|rk|pk|ek|sess|uk)[-_][A-Za-z0-9_\-]{12,}+",  # OpenAI (`ek_`: Realtime client secrets), Anthropic, Stripe, ElevenLabs
    r"AIza[A-Za-z0-9_\-]{20,}+",  # Google API keys
    r"AQ\.[A-Za-z0-9_\-]{20,}+",  # Google's newer, service-account-bound keys
    r"ya29\.[A-Za-z0-9_.\-]{16,}+",  # Google OAuth access tokens
    r"GOCSPX-[A-Za-z0-9_\-]{16,}+",  # Google OAuth client secrets
    r"1//0[A-Za-z0-9_\-]{16,}+",  # Google refresh tokens
    r"gh[a-z]_[A-Za-z0-9_]{16,}+",  # GitHub (docs: token formats)
    r"github_pat_[A-Za-z0-9_]{16,}+",
    r"glpat-[A-Za-z0-9_.\-]{16,}+",  # GitLab
    r"xox[a-z]-[A-Za-z0-9\-]{10,}+",  # Slack
    r"(?:gsk|hf|r8|fw|lsv2|tgp|jina|pcsk|secret|key)_[A-Za-z0-9_]{20,}+",  # Groq, Hugging Face, Replicate, Fireworks, LangSmith ...
    r"(?:xai|pplx|nvapi|tvly|csk|dapi|vck|pat|npm|pypi|figd)[-_][A-Za-z0-9_\-]{20,}+",  # xAI, Perplexity, NVIDIA, Tavily ...
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # AWS access key ids
    r"eyJ[A-Za-z0-9_\-]{8,}+\.[A-Za-z0-9_\-]{8,}+(?:\.[A-Za-z0-9_\-]*+)?+",  # JSON Web Tokens (RFC 7519)
)
"""Values that are keys by their looks, wherever they stand. Each begins with literals at a word's start, so no run is tried twice."""
