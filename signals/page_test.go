package signals

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/farthing402/farthing/money"
)

// docs/pricing.md shows both tables to people; each row of them must stand there as it is here.
func TestThePageShowsTheTables(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/pricing.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, r := range Rails {
		share := "–"
		if r.Share.Sign() > 0 {
			share = r.Share.String()
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |", r.Name, share, r.Fixed, r.Payer, r.AsOf, r.Source, r.Note))
	}
	for _, d := range dated {
		if strings.HasPrefix(d.source, "as ") {
			continue // a test network
		}
		wei, _ := strings.CutSuffix(money.Format(money.Units(d.wei), 9, "gwei"), " gwei")
		rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s | %s |", d.network, wei, cents(d.coin), d.asOf, d.source))
	}
	for _, row := range rows {
		if !strings.Contains(string(text), row+"\n") {
			t.Errorf("docs/pricing.md lacks the row\n%s", row)
		}
	}
}
