package signals

import (
	"go/ast"
	"go/parser"
	"go/token"
	"math/big"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func dollars(t interface{ Fatalf(string, ...any) }, text string) Dollars {
	d, err := ParseDollars(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return d
}

func percent(t interface{ Fatalf(string, ...any) }, text string) Ratio {
	r, err := ParsePercent(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r
}

func TestSumsForPeopleAreRoundedAgainstTheSeller(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sum      Dollars
		up, down string
	}{
		{Dollars{}, "$0", "$0"},
		{dollars(t, "$0.000975"), "$0.00098", "$0.00097"},
		{dollars(t, "$0.00000975"), "$0.0000098", "$0.0000097"},
		{dollars(t, "$0.0022"), "$0.0022", "$0.0022"},
		{dollars(t, "$12.5"), "$12.50", "$12.50"},
		{dollars(t, "$12.345"), "$12.35", "$12.34"},
		{dollars(t, "$1").Among(3), "$0.34", "$0.33"},
		{Dollars{}.Sub(dollars(t, "$0.000595")), "−$0.00059", "−$0.00060"},
		{Dollars{}.Sub(dollars(t, "$0.49")), "−$0.49", "−$0.49"},
		{Dollars{big.NewRat(1, 1).Quo(one, power10(30))}, "$0.000000000000000001", "$0.000000000000000000"},
	} {
		if got := c.sum.Up(); got != c.up {
			t.Errorf("%v up is %s, want %s", c.sum, got, c.up)
		}
		if got := c.sum.Down(); got != c.down {
			t.Errorf("%v down is %s, want %s", c.sum, got, c.down)
		}
	}
}

func TestRoundedSumsLieOnTheirSide(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := drawDollars(t, "sum")
		if rapid.Bool().Draw(t, "loss") {
			d = Dollars{}.Sub(d)
		}
		up, down := unpeople(t, d.Up()), unpeople(t, d.Down())
		if up.Cmp(d) < 0 || down.Cmp(d) > 0 {
			t.Fatalf("%v is shown as %s to %s", d, d.Down(), d.Up())
		}
		for _, text := range []string{d.Decimal(true), d.Decimal(false)} {
			if r, ok := new(big.Rat).SetString(text); !ok || strings.ContainsAny(text, "e−") {
				t.Fatalf("%q is no decimal", text)
			} else if off := new(big.Rat).Sub(r, orZero(d.r)); off.Abs(off).Cmp(new(big.Rat).Quo(one, power10(12))) >= 0 {
				t.Fatalf("%v is written as %s", d, text)
			}
		}
	})
}

func unpeople(t *rapid.T, text string) Dollars {
	number := strings.Replace(strings.Replace(text, "$", "", 1), "−", "-", 1)
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		t.Fatalf("%q is no sum", text)
	}
	return Dollars{r}
}

// drawDollars draws sums from a billionth of a dollar to a million, thirds and sevenths of them too.
func drawDollars(t *rapid.T, label string) Dollars {
	n := rapid.Int64Range(0, 1_000_000_000_000_000).Draw(t, label)
	return Dollars{new(big.Rat).Quo(big.NewRat(n, rapid.SampledFrom([]int64{1, 3, 7}).Draw(t, label+" among")), power10(9))}
}

func TestWhatPeopleWroteKeepsItsDigits(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"$0.0005", "$0.000001", "$12.50", "$0.00", "$3000.00"} {
		if got := dollars(t, text).String(); got != text {
			t.Errorf("%s reads back as %s", text, got)
		}
	}
	for text, want := range map[string]string{"50%": "50 %", "7.5 %": "7.5 %", "0%": "0 %", "100%": "100 %", "74.99%": "74 %"} {
		if got := percent(t, text).Percent(); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]string{"2.9%": "2.9 %", "3.49%": "3.49 %", "0.05 %": "0.05 %", "50%": "50 %", "0%": "0 %"} {
		if got := percent(t, text).String(); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	if got := RatioOf(1, 3).Decimal(); got != "0.333333" {
		t.Errorf("a third is %s", got)
	}
	loss, _ := Dollars{}.Sub(dollars(t, "$1")).Over(dollars(t, "$3"))
	if loss.Percent() != "−34 %" || loss.Decimal() != "-0.333334" {
		t.Errorf("a loss of a third is %s, %s", loss.Percent(), loss.Decimal())
	}
	for _, bad := range []string{"", "50", "%", "101%", "-1%", "a%", "1e1%", "$5%"} {
		if r, err := ParsePercent(bad); err == nil {
			t.Errorf("%q passes for %s", bad, r.Percent())
		}
	}
	if _, err := ParseDollars("3 USDC"); err == nil {
		t.Error("another currency passes for dollars")
	}
}

// Money is never a floating-point number here, not even on its way to the screen.
func TestNoFloatingPoint(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 5 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				if strings.Contains(strings.ToLower(n.Name), "float") {
					t.Errorf("%s names %s", file, n.Name)
				}
			case *ast.BasicLit:
				if n.Kind == token.FLOAT {
					t.Errorf("%s has the literal %s", file, n.Value)
				}
			}
			return true
		})
	}
}
