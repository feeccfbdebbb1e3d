package x402

import (
	"encoding/json"
	"testing"
)

func TestExtraString(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`"USDC"`: "USDC", `""`: "", `"USD₮0"`: "USD₮0", `"a\u0062c"`: "abc", `"\"\\"`: `"\`,
		`null`: "", `7`: "", `["x"]`: "", `"`: "", `"a"b"`: "", `"open`: "", ``: "", "\"\xff\"": "\ufffd",
	} {
		r := Requirements{Extra: map[string]json.RawMessage{"k": json.RawMessage(raw)}}
		if got := r.ExtraString("k"); got != want {
			t.Errorf("%s is read as %q, want %q", raw, got, want)
		}
	}
	if got := (Requirements{}).ExtraString("k"); got != "" {
		t.Errorf("nothing is read as %q", got)
	}
}
