package purchase

import "testing"

func TestIDsAndTheirBytes(t *testing.T) {
	t.Parallel()
	b := [16]byte{0: 0x01, 15: 0xff}
	id := IDFromBytes(b)
	if got, ok := IDBytes(id); !ok || got != b || !ValidID(id) {
		t.Errorf("%s is %x, %v", id, got, ok)
	}
	for _, wrong := range []string{"", "p_", id[:len(id)-1], id + "a", "q" + id[1:], id[:5] + "1" + id[6:], id[:len(id)-1] + "7"} {
		if _, ok := IDBytes(wrong); ok || ValidID(wrong) {
			t.Errorf("%q is an id", wrong)
		}
	}
}
