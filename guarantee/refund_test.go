package guarantee

import (
	"testing"

	"github.com/farthing402/farthing/evm"
)

func TestRefundIDs(t *testing.T) {
	t.Parallel()
	id := [16]byte{0: 0x01, 15: 0xff}
	reqID := RefundID(id)
	if want := "0x4641525448494e475f524546554e445f010000000000000000000000000000ff"; reqID.String() != want {
		t.Errorf("%s, want %s", reqID, want)
	}
	if got, ok := RefundOf(reqID); !ok || got != id {
		t.Errorf("%x, %v", got, ok)
	}
	reqID[15] ^= 1
	for _, other := range []evm.Hash{{}, reqID, evm.Keccak256([]byte("terms"))} {
		if got, ok := RefundOf(other); ok || got != [16]byte{} {
			t.Errorf("%s gives %x back", other, got)
		}
	}
}
