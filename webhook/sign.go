package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of a webhook.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

// Tolerance is how far a webhook's timestamp may be from the receiver's clock: an attempt that somebody kept and sends
// again later is refused.
const Tolerance = 5 * time.Minute

// BodyBytesMax is how much of a body [Receive] reads; events are far smaller.
const BodyBytesMax = 64 << 10

// What is wrong with a webhook that does not verify.
var (
	ErrHeaders   = errors.New("webhook headers are missing or malformed")
	ErrTimestamp = errors.New("webhook timestamp is too far from now")
	ErrSignature = errors.New("no webhook signature is by a known secret")
)

const (
	secretPrefix   = "whsec_"
	secretBytes    = 32
	secretBytesMin = 24
	secretBytesMax = 64
	signatureTag   = "v1,"
)

// Secret signs the webhooks of one endpoint. It prints without its key; [Secret.Text] tells it.
type Secret struct{ key string }

// NewSecret makes a secret out of random bytes.
func NewSecret(random io.Reader) (Secret, error) {
	key := make([]byte, secretBytes)
	if _, err := io.ReadFull(random, key); err != nil {
		return Secret{}, fmt.Errorf("make webhook secret: %w", err)
	}
	return Secret{string(key)}, nil
}

// ParseSecret reads whsec_ and base64 of 24 to 64 bytes.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < secretBytesMin || len(key) > secretBytesMax {
		return Secret{}, fmt.Errorf("a webhook secret is %s and base64 of %d to %d bytes", secretPrefix, secretBytesMin, secretBytesMax)
	}
	return Secret{string(key)}, nil
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.key == "" }

// Text returns the secret as its owner keeps it.
func (s Secret) Text() string { return secretPrefix + base64.StdEncoding.EncodeToString([]byte(s.key)) }

// String does not tell the secret.
func (s Secret) String() string { return secretPrefix + "…" }

// GoString does not tell it either.
func (s Secret) GoString() string { return s.String() }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

func (s Secret) sign(id, timestamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, []byte(s.key))
	io.WriteString(mac, id+"."+timestamp+".")
	mac.Write(body)
	return mac.Sum(nil)
}

// Sign sets the three headers of an attempt at a time to deliver a body. With several secrets there are several
// signatures, so that a receiver that knows one of them accepts it.
func Sign(h http.Header, id string, at time.Time, body []byte, secrets ...Secret) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, s := range secrets {
		signatures[i] = signatureTag + base64.StdEncoding.EncodeToString(s.sign(id, timestamp, body))
	}
	h.Set(HeaderID, id)
	h.Set(HeaderTimestamp, timestamp)
	h.Set(HeaderSignature, strings.Join(signatures, " "))
}

// Verify reports whether a body and its headers were signed with one of the secrets within [Tolerance] of now. The error is
// [ErrHeaders], [ErrTimestamp] or [ErrSignature]. Comparing takes the same time whatever differs.
func Verify(h http.Header, body []byte, now time.Time, secrets ...Secret) error {
	id, timestamp := h.Get(HeaderID), h.Get(HeaderTimestamp)
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if id == "" || err != nil || h.Get(HeaderSignature) == "" {
		return ErrHeaders
	}
	if earliest, latest := now.Add(-Tolerance).Unix(), now.Add(Tolerance).Unix(); seconds < earliest || seconds > latest {
		return ErrTimestamp
	}
	good := false
	for _, s := range secrets {
		if s.IsZero() {
			continue
		}
		want := s.sign(id, timestamp, body)
		for text := range strings.FieldsSeq(h.Get(HeaderSignature)) {
			encoded, ok := strings.CutPrefix(text, signatureTag)
			if !ok {
				continue // of a scheme that is not ours
			}
			got, err := base64.StdEncoding.DecodeString(encoded)
			good = err == nil && hmac.Equal(got, want) || good
		}
	}
	if !good {
		return ErrSignature
	}
	return nil
}
