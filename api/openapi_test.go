package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// description is openapi.yaml as a reader would load it, but stricter: an answer with a member that it does not describe is
// refused, so that none goes undescribed.
var description = sync.OnceValues(func() (*openapi3.T, error) {
	text, err := openAPIJSON()
	if err != nil {
		return nil, err
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	closeObjects(tree)
	if text, err = json.Marshal(tree); err != nil {
		return nil, err
	}
	return openapi3.NewLoader().LoadFromData(text)
})

// closeObjects refuses what a schema with members does not list.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, listed := v["properties"].(map[string]any); listed && v["type"] == "object" && v["additionalProperties"] == nil {
			v["additionalProperties"] = false
		}
		for _, inner := range v {
			closeObjects(inner)
		}
	case []any:
		for _, inner := range v {
			closeObjects(inner)
		}
	}
}

var router = sync.OnceValues(func() (routers.Router, error) {
	doc, err := description()
	if err != nil {
		return nil, err
	}
	return gorillamux.NewRouter(doc)
})

// conforms checks an answer against the description: that its status is there, and that its body is what the schema says.
func conforms(t testing.TB, method, path string, resp *http.Response, body []byte) {
	t.Helper()
	find, err := router()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, "http://x"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Path = req.URL.EscapedPath() // a colon in an id may be escaped
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	schema := func(r *openapi3.Response) *openapi3.SchemaRef {
		media := r.Content[kind]
		if media == nil {
			t.Errorf("%s %s: %d is answered with %q, which is not described", method, path, resp.StatusCode, kind)
			return nil
		}
		return media.Schema
	}
	doc, _ := description()
	said := doc.Components.Schemas["Error"]
	if route, _, err := find.FindRoute(req); err == nil {
		ref := route.Operation.Responses.Status(resp.StatusCode)
		if ref == nil {
			ref = route.Operation.Responses.Default()
		}
		for name, h := range ref.Value.Headers {
			if h.Value.Required && resp.Header.Get(name) == "" {
				t.Errorf("%s %s: %d without %s", method, path, resp.StatusCode, name)
			}
		}
		if said = schema(ref.Value); said == nil {
			return
		}
	} else if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed && resp.StatusCode != http.StatusBadRequest {
		t.Errorf("%s %s: %d, and it is not described: %v", method, path, resp.StatusCode, err)
	}
	if kind != "application/json" {
		return
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		t.Errorf("%s %s: %v in %q", method, path, err, body)
		return
	}
	if err := said.Value.VisitJSON(value, openapi3.EnableJSONSchema2020()); err != nil {
		t.Errorf("%s %s: %d is not as described: %v\n%s", method, path, resp.StatusCode, err, body)
	}
}

// The description is a good one, and it and the handler name the same routes.
func TestOpenAPIDescribesEveryRoute(t *testing.T) {
	t.Parallel()
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("version %s", doc.OpenAPI)
	}
	var described, served []string
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			described = append(described, method+" "+path)
			if op.OperationID == "" || op.Summary == "" || len(op.Tags) != 1 || doc.Tags.Get(op.Tags[0]) == nil {
				t.Errorf("%s %s has no id, no summary or no known tag", method, path)
			}
			public := op.Security == nil
			for _, r := range (&handler{}).routes() {
				if r.pattern != method+" "+path {
					continue
				}
				// What needs no login is described so, and the other way round.
				req, _ := http.NewRequest(method, "http://x"+path, nil)
				_, err := r.access(&handler{}, req)
				if needs := err != nil; needs == (public || len((*op.Security)[0]) == 0) {
					t.Errorf("%s: needs a login: %v, described as public: %v", r.pattern, needs, public)
				}
			}
		}
	}
	for _, r := range (&handler{}).routes() {
		served = append(served, r.pattern)
	}
	slices.Sort(described)
	slices.Sort(served)
	for _, d := range described {
		if !slices.Contains(served, d) {
			t.Errorf("%s is described and not served", d)
		}
	}
	for _, s := range served {
		if !slices.Contains(described, s) {
			t.Errorf("%s is served and not described", s)
		}
	}
}

// The document itself is served.
func TestOpenAPIIsServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	status, body := w.as(nil, "GET", "/core/openapi.json", nil)
	doc, err := openapi3.NewLoader().LoadFromData(body)
	if status != 200 || err != nil || doc.Paths.Len() < 20 {
		t.Errorf("%d, %v", status, err)
	}
}
