package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// The example of the specification's own libraries.
const (
	specSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	specID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	specBody      = `{"test": 2432232314}`
	specSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

var specTime = time.Unix(1614265330, 0)

func secret(t *testing.T, text string) Secret {
	t.Helper()
	s, err := ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignsAsTheSpecificationDoes(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	Sign(h, specID, specTime, []byte(specBody), secret(t, specSecret))
	for name, want := range map[string]string{"webhook-id": specID, "webhook-timestamp": "1614265330", "webhook-signature": specSignature} {
		if got := h.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	known := secret(t, specSecret)
	other, err := NewSecret(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	const decoys = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v2," + "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1a,AAAA "
	for name, c := range map[string]struct {
		change  func(http.Header)
		body    string
		late    time.Duration
		secrets []Secret
		want    error
	}{
		"as it was sent":                          {secrets: []Secret{known}},
		"one of several known secrets":            {secrets: []Secret{other, known}},
		"one of several signatures":               {change: func(h http.Header) { h.Set(HeaderSignature, decoys+specSignature) }, secrets: []Secret{known}},
		"at the edge of the tolerance":            {late: Tolerance, secrets: []Secret{known}},
		"by a clock that runs ahead":              {late: -Tolerance, secrets: []Secret{known}},
		"kept and sent again":                     {late: Tolerance + time.Second, secrets: []Secret{known}, want: ErrTimestamp},
		"from the future":                         {late: -Tolerance - time.Second, secrets: []Secret{known}, want: ErrTimestamp},
		"another secret":                          {secrets: []Secret{other}, want: ErrSignature},
		"no secret known":                         {want: ErrSignature},
		"a secret that is none":                   {secrets: []Secret{{}}, want: ErrSignature},
		"another body":                            {body: `{"test": 2432232315}`, secrets: []Secret{known}, want: ErrSignature},
		"another id":                              {change: func(h http.Header) { h.Set(HeaderID, "msg_other") }, secrets: []Secret{known}, want: ErrSignature},
		"another timestamp":                       {change: func(h http.Header) { h.Set(HeaderTimestamp, "1614265331") }, secrets: []Secret{known}, want: ErrSignature},
		"a signature under another scheme's name": {change: func(h http.Header) { h.Set(HeaderSignature, strings.Replace(specSignature, "v1", "v2", 1)) }, secrets: []Secret{known}, want: ErrSignature},
		"a part of the signature":                 {change: func(h http.Header) { h.Set(HeaderSignature, specSignature[:8]) }, secrets: []Secret{known}, want: ErrSignature},
		"an empty signature":                      {change: func(h http.Header) { h.Set(HeaderSignature, "v1,") }, secrets: []Secret{known}, want: ErrSignature},
		"no id":                                   {change: func(h http.Header) { h.Del(HeaderID) }, secrets: []Secret{known}, want: ErrHeaders},
		"no timestamp":                            {change: func(h http.Header) { h.Del(HeaderTimestamp) }, secrets: []Secret{known}, want: ErrHeaders},
		"a timestamp that is none":                {change: func(h http.Header) { h.Set(HeaderTimestamp, "soon") }, secrets: []Secret{known}, want: ErrHeaders},
		"no signature":                            {change: func(h http.Header) { h.Del(HeaderSignature) }, secrets: []Secret{known}, want: ErrHeaders},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := http.Header{}
			Sign(h, specID, specTime, []byte(specBody), known)
			if c.change != nil {
				c.change(h)
			}
			body := specBody
			if c.body != "" {
				body = c.body
			}
			if err := Verify(h, []byte(body), specTime.Add(c.late), c.secrets...); !errors.Is(err, c.want) {
				t.Errorf("verify says %v, want %v", err, c.want)
			}
		})
	}
}

// While two secrets overlap, receivers that know only one of them accept the same request.
func TestTwoSecretsTwoSignatures(t *testing.T) {
	t.Parallel()
	before := secret(t, specSecret)
	after, err := NewSecret(bytes.NewReader(bytes.Repeat([]byte{9}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	Sign(h, specID, specTime, []byte(specBody), after, before)
	for _, s := range []Secret{before, after} {
		if err := Verify(h, []byte(specBody), specTime, s); err != nil {
			t.Error(err)
		}
	}
}

func TestSecretsAreOfTheSpecification(t *testing.T) {
	t.Parallel()
	s, err := NewSecret(bytes.NewReader(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	if again := secret(t, s.Text()); again != s {
		t.Error("a secret is not read as it is written")
	}
	if _, err := NewSecret(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("a secret was made of too little chance")
	}
	for _, bad := range []string{"", "whsec_", specSecret[6:], "whsec_AAAA", "whsec_" + strings.Repeat("A", 88), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS*"} {
		if _, err := ParseSecret(bad); err == nil {
			t.Errorf("%q is taken for a secret", bad)
		}
	}
	for _, format := range []string{"%v", "%s", "%+v", "%#v", "%q"} {
		if text := fmt.Sprintf(format, s); strings.Contains(text, "AAAA") || strings.Contains(text, `\x00`) {
			t.Errorf("%s prints the secret: %s", format, text)
		}
	}
}

func TestReceive(t *testing.T) {
	t.Parallel()
	s := secret(t, specSecret)
	event := Event{ID: "evt_1", Type: CollateralDeposited, CreatedAt: specTime.UTC(), APIVersion: APIVersion, Data: json.RawMessage(`{"amount":"5"}`)}
	body, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	request := func(id string, body []byte) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		Sign(r.Header, id, specTime, body, s)
		return r
	}
	got, err := Receive(request("evt_1", body), specTime, s)
	if err != nil {
		t.Fatal(err)
	}
	var d Deposit
	if err := got.Decode(&d); err != nil || d.Amount.String() != "5" || got.Type != CollateralDeposited {
		t.Errorf("received %+v with %+v: %v", got, d, err)
	}
	for name, r := range map[string]*http.Request{
		"signed under another id": request("evt_2", body),
		"no JSON":                 request("evt_1", []byte("{")),
		"too large":               request("evt_1", bytes.Repeat([]byte(" "), BodyBytesMax+1)),
	} {
		if _, err := Receive(r, specTime, s); err == nil {
			t.Errorf("%s: it is received", name)
		}
	}
}

func FuzzVerifyTakesOnlyWhatWasSigned(f *testing.F) {
	f.Add(specID, "1614265330", specSignature, specBody)
	f.Add("a.b", "1614265330", "v1,", "")
	s, err := ParseSecret(specSecret)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id, timestamp, signature, body string) {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
		if Verify(h, []byte(body), specTime, s) == nil && id+"."+timestamp+"."+body != specID+".1614265330."+specBody {
			t.Errorf("%q %q %q verifies for %q", id, timestamp, signature, body)
		}
	})
}
