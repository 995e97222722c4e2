package systemd

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"brig/api"
)

// prefix is that of annotations which name properties of the scope, as runc and crun have it.
const prefix = "org.systemd.property."

// annotated reads the properties that annotations ask for, in the order of their names. The values are in GVariant's text format.
func annotated(annotations map[string]string) ([]Property, error) {
	var list []Property
	for key, text := range annotations {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		if !propertyName(name) {
			return nil, api.Errorf(api.InvalidArgument, "annotation %s: %q is not the name of a property: three letters or more", key, name)
		}
		value, err := parseVariant(text)
		if err != nil {
			return nil, api.Errorf(api.InvalidArgument, "annotation %s: %w", key, err)
		}
		// What systemd's pages call …Sec is …USec on the bus.
		if base, ok := strings.CutSuffix(name, "Sec"); ok && base != "" && base[len(base)-1] >= 'a' && base[len(base)-1] <= 'z' {
			name = base + "USec"
			if value, err = micro(value); err != nil {
				return nil, api.Errorf(api.InvalidArgument, "annotation %s: %q: %w", key, text, err)
			}
		}
		list = append(list, Property{name, value})
	}
	slices.SortFunc(list, func(a, b Property) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func propertyName(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return len(s) >= 3
}

// micro turns seconds into microseconds.
func micro(v any) (any, error) {
	f := 0.0
	switch v := v.(type) {
	case byte:
		f = float64(v)
	case int16:
		f = float64(v)
	case uint16:
		f = float64(v)
	case int32:
		f = float64(v)
	case uint32:
		f = float64(v)
	case int64:
		f = float64(v)
	case uint64:
		f = float64(v)
	case float64:
		f = v
	default:
		return nil, api.Errorf(api.InvalidArgument, "it is not a number of seconds")
	}
	if !(f >= 0 && f*1e6 < 1<<63) {
		return nil, api.Errorf(api.InvalidArgument, "it is not a number of seconds that fits")
	}
	return uint64(math.Round(f * 1e6)), nil
}

// parseVariant reads a value of GVariant's text format (its page "GVariant Text Format"): strings, numbers, true and false, each with a
// type in front of it or not, and arrays of strings, bytes, uint32 or uint64. Tuples, dictionaries and the rest are refused.
func parseVariant(text string) (any, error) {
	p := &variantParser{text: text}
	v, err := p.value("")
	if err != nil {
		return nil, err
	}
	if p.space(); p.text != "" {
		return nil, api.Errorf(api.InvalidArgument, "%q: %q is left behind the value", text, p.text)
	}
	return v, nil
}

type variantParser struct{ text string }

func (p *variantParser) space() { p.text = strings.TrimLeft(p.text, " \t\n") }

// value reads one value; want is its type's signature, "" where the text says it.
func (p *variantParser) value(want string) (any, error) {
	p.space()
	if p.text == "" {
		return nil, api.Errorf(api.InvalidArgument, "a value is missing: write a string in quotes, a number, true or false")
	}
	switch c := p.text[0]; {
	case c == '\'' || c == '"':
		s, err := p.quoted()
		if err == nil && want != "" && want != "s" && want != "o" {
			err = api.Errorf(api.InvalidArgument, "%q is a string where %s is wanted", s, want)
		}
		if want == "o" {
			return Path(s), err
		}
		return s, err
	case c == '[':
		return p.array(strings.TrimPrefix(want, "a"))
	case c == '@':
		p.text = p.text[1:]
		sig := p.word()
		switch sig {
		case "y", "b", "n", "q", "i", "u", "x", "t", "d", "s", "o", "ay", "as", "au", "at":
			return p.value(sig)
		}
		return nil, api.Errorf(api.InvalidArgument, "type @%s: only simple types and arrays of s, y, u and t are taken", sig)
	}
	word := p.word()
	switch word {
	case "":
		return nil, api.Errorf(api.InvalidArgument, "%q is no value: write a string in quotes, a number, true or false", p.text)
	case "true", "false":
		if want != "" && want != "b" {
			return nil, api.Errorf(api.InvalidArgument, "%s where %s is wanted", word, want)
		}
		return word == "true", nil
	}
	if i := slices.Index(typeWords[:], word); i >= 0 {
		return p.value(typeLetters[i : i+1])
	}
	return number(word, want)
}

// typeWords are GVariant's words for types, in the order of their letters.
var typeWords = [...]string{"byte", "boolean", "int16", "uint16", "int32", "uint32", "int64", "uint64", "double", "string", "objectpath"}

const typeLetters = "ybnqiuxtdso"

// word takes letters, digits, and what numbers are written with.
func (p *variantParser) word() string {
	i := 0
	for i < len(p.text) && strings.IndexByte(" \t\n,]['\"@", p.text[i]) < 0 {
		i++
	}
	word := p.text[:i]
	p.text = p.text[i:]
	return word
}

func (p *variantParser) quoted() (string, error) {
	quote := p.text[0]
	var b strings.Builder
	for i := 1; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == quote:
			p.text = p.text[i+1:]
			return b.String(), nil
		case c == 0:
			return "", api.Errorf(api.InvalidArgument, "a string has a NUL byte")
		case c == '\\' && i+1 < len(p.text):
			i++
			switch p.text[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			default:
				b.WriteByte(p.text[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", api.Errorf(api.InvalidArgument, "%s: the closing %c is missing", p.text, quote)
}

// array reads "[a, b]" of elements of one type.
func (p *variantParser) array(element string) (any, error) {
	p.text = p.text[1:]
	var list []any
	for p.space(); !strings.HasPrefix(p.text, "]"); p.space() {
		if len(list) > 0 {
			if !strings.HasPrefix(p.text, ",") {
				return nil, api.Errorf(api.InvalidArgument, "an array lacks a comma or its ] at %q", p.text)
			}
			p.text = p.text[1:]
		}
		if p.space(); strings.HasPrefix(p.text, "[") {
			return nil, api.Errorf(api.InvalidArgument, "arrays of arrays are not taken")
		}
		v, err := p.value(element)
		if err != nil {
			return nil, err
		}
		if element == "" {
			element = signatureOf(v)
		}
		list = append(list, v)
	}
	p.text = p.text[1:]
	switch element {
	case "s":
		return typed[string](list)
	case "y":
		return typed[byte](list)
	case "u":
		return typed[uint32](list)
	case "t":
		return typed[uint64](list)
	case "":
		return nil, api.Errorf(api.InvalidArgument, "an empty array needs its type, such as @as []")
	}
	return nil, api.Errorf(api.InvalidArgument, "arrays of type %s are not taken: only of s, y, u and t, such as @au [1, 2]", element)
}

func typed[T any](list []any) (any, error) {
	out := make([]T, 0, len(list))
	for _, v := range list {
		t, ok := v.(T)
		if !ok {
			return nil, api.Errorf(api.InvalidArgument, "the elements of an array are of one type")
		}
		out = append(out, t)
	}
	return out, nil
}

// number reads a number of type want; without one it is int32, or double where it has a point or an exponent.
func number(word, want string) (any, error) {
	bad := api.Errorf(api.InvalidArgument, "%q is not a value of type %s: strings want quotes", word, want)
	if want == "" {
		bad = api.Errorf(api.InvalidArgument, "%q is not a value: strings want quotes, numbers beyond 32 bits their type, such as uint64 5", word)
		want = "i"
		if strings.ContainsAny(word, ".eE") && !strings.HasPrefix(word, "0x") {
			want = "d"
		}
	}
	i := strings.Index("ynqiuxt", want)
	switch {
	case want == "d":
		f, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return nil, bad
		}
		return f, nil
	case i < 0 || len(want) != 1:
		return nil, bad
	}
	bits := [...]int{8, 16, 16, 32, 32, 64, 64}[i]
	signed, err := strconv.ParseInt(word, 0, bits)
	unsigned, err2 := strconv.ParseUint(word, 0, bits)
	if want == "n" || want == "i" || want == "x" {
		err2 = err
	}
	if err2 != nil {
		return nil, bad
	}
	switch want {
	case "y":
		return byte(unsigned), nil
	case "n":
		return int16(signed), nil
	case "q":
		return uint16(unsigned), nil
	case "i":
		return int32(signed), nil
	case "u":
		return uint32(unsigned), nil
	case "x":
		return signed, nil
	}
	return unsigned, nil
}
