package plan

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/config"
)

// TestSupportTable holds docs/oci-support.md against the specification's types
// and against what Load and Make do: a row "refused" is refused by name, a row
// "warning" gives a warning, "guest" reaches the guest and "host" does not.
func TestSupportTable(t *testing.T) {
	rows := supportRows(t)
	var fields []string
	listFields("", reflect.TypeFor[specs.Spec](), &fields)
	for _, f := range fields {
		if _, ok := rows[f]; !ok {
			t.Errorf("%s has no row", f)
		}
	}
	for f := range rows {
		if !slices.Contains(fields, f) {
			t.Errorf("row %s names no field", f)
		}
	}
	if t.Failed() {
		return
	}

	full := makeFull(t, nil)
	for field, who := range rows {
		t.Run(field, func(t *testing.T) {
			parts := strings.Split(field, ".")
			switch who {
			case "refused":
				plan, err := tryFull(t, func(s *specs.Spec) { fill(reflect.ValueOf(s), parts) })
				if err == nil {
					t.Fatalf("accepted, warnings %q", plan.Warnings)
				}
				if !errors.Is(err, bundle.ErrUnsupported) || !names(err.Error(), field) {
					t.Fatalf("%v does not refuse %s by name", err, field)
				}
			case "warning":
				plan := makeFull(t, func(s *specs.Spec) { fill(reflect.ValueOf(s), parts) })
				if !slices.ContainsFunc(plan.Warnings, func(w string) bool { return names(w, field) }) {
					t.Errorf("no warning names it: %q", plan.Warnings)
				}
				if isSet(reflect.ValueOf(plan.Guest), parts) {
					t.Error("reaches the guest")
				}
			case "guest", "both":
				if field != excluded && !isSet(reflect.ValueOf(full.Guest), parts) {
					t.Error("does not reach the guest")
				}
			case "host":
				if isSet(reflect.ValueOf(full.Guest), parts) {
					t.Error("reaches the guest")
				}
			default:
				t.Errorf("%q is not a word of the table", who)
			}
		})
	}
}

// excluded is the one field that cannot be set together with all the others:
// SCHED_DEADLINE has no priority. TestGuestProcess sets it.
const excluded = "process.scheduler.priority"

// TestFullIsFull makes sure that the spec the test above starts from sets
// every field that somebody enforces; else a field lost on the way would not
// be noticed.
func TestFullIsFull(t *testing.T) {
	spec := readSpec(t, "full", "/BUNDLE")
	for field, who := range supportRows(t) {
		if who != "guest" && who != "both" && who != "host" || field == excluded {
			continue
		}
		if !isSet(reflect.ValueOf(spec), strings.Split(field, ".")) {
			t.Errorf("testdata/full.json does not set %s", field)
		}
	}
}

// names says whether text begins with field, its indices and keys aside, or
// with a field below it or above it that decides.
func names(text, field string) bool {
	name, _, _ := strings.Cut(text, ": ")
	name = regexp.MustCompile(`\[\d+\]`).ReplaceAllString(name, "")
	field = strings.NewReplacer("[]", "", ".*", "").Replace(field)
	return name == field || strings.HasPrefix(field, name+".") || strings.HasPrefix(name, field+".")
}

func makeFull(t *testing.T, change func(*specs.Spec)) *Plan {
	t.Helper()
	p, err := tryFull(t, change)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tryFull plans testdata/full.json after change.
func tryFull(t *testing.T, change func(*specs.Spec)) (*Plan, error) {
	t.Helper()
	dir := bundleDir(t)
	s := readSpec(t, "full", dir)
	if change != nil {
		change(s)
	}
	b, err := loadSpec(t, dir, s)
	if err != nil {
		return nil, err
	}
	return Make("full", b, config.Default(), testHost())
}

// supportRows reads the table: field to who enforces it.
func supportRows(t *testing.T) map[string]string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/oci-support.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(doc), "| field | who | note |\n")
	if !ok {
		t.Fatal("docs/oci-support.md has no table of fields")
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (\\w+) \\|").FindAllStringSubmatch(table, -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("%s has two rows", m[1])
		}
		rows[m[1]] = m[2]
	}
	return rows
}

// listFields lists every field below t in the table's notation: [] for the
// elements of a list of objects, * for those of a map. Other platforms'
// sections are one field each.
func listFields(path string, t reflect.Type, fields *[]string) {
	switch {
	case t.Kind() == reflect.Pointer:
		listFields(path, t.Elem(), fields)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		listFields(path+"[]", t.Elem(), fields)
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
		listFields(path+".*", t.Elem(), fields)
	case t.Kind() == reflect.Struct:
		for _, f := range reflect.VisibleFields(t) {
			if f.Anonymous {
				continue
			}
			name := strings.TrimPrefix(path+"."+jsonName(f), ".")
			*fields = append(*fields, name)
			if !slices.Contains([]string{"solaris", "windows", "vm", "zos", "freebsd"}, name) {
				listFields(name, f.Type, fields)
			}
		}
	}
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// step finds the field of struct v that part names.
func step(v reflect.Value, part string) reflect.Value {
	part = strings.TrimSuffix(part, "[]")
	for _, f := range reflect.VisibleFields(v.Type()) {
		if !f.Anonymous && jsonName(f) == part {
			return v.FieldByIndex(f.Index)
		}
	}
	panic("no field " + part)
}

// isSet says whether the field parts names is set in any element on the way.
func isSet(v reflect.Value, parts []string) bool {
	switch {
	case v.Kind() == reflect.Pointer:
		if len(parts) == 0 || v.IsNil() {
			return !v.IsNil()
		}
		return isSet(v.Elem(), parts)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			if len(parts) == 0 || isSet(v.Index(i), parts) {
				return true
			}
		}
		return false
	case v.Kind() == reflect.Map:
		for _, k := range v.MapKeys() {
			if len(parts) == 0 || isSet(v.MapIndex(k), parts[1:]) {
				return true
			}
		}
		return false
	case len(parts) == 0:
		return !v.IsZero()
	}
	return isSet(step(v, parts[0]), parts[1:])
}

// fill sets the field parts names to something, making what is missing on the
// way.
func fill(v reflect.Value, parts []string) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		fill(v.Elem(), parts)
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		fill(v.Index(0), parts)
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, parts[min(1, len(parts)):])
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("x").Convert(v.Type().Key()), e)
	case reflect.Struct:
		if len(parts) > 0 {
			fill(step(v, parts[0]), parts[1:])
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), nil)
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Interface:
		v.Set(reflect.ValueOf("x"))
	default:
		v.Set(reflect.ValueOf(1).Convert(v.Type()))
	}
}

// readSpec reads testdata/<name>.json with dir in place of @DIR@.
func readSpec(t testing.TB, name, dir string) *specs.Spec {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(data), "@DIR@", dir)), &s); err != nil {
		t.Fatal(err)
	}
	return &s
}
