//go:build linux

package libvm

import (
	"cmp"
	"errors"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"

	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/plan"
	"github.com/runm/runm/libvm/template"
)

// TemplateStore is where templates are kept.
func TemplateStore(c config.Config) template.Store {
	return template.Store{
		Dir:   cmp.Or(c.TemplateDir, template.DefaultDir()),
		Count: c.Templates, Bytes: cmp.Or(int64(c.TemplatesMiB)<<20, template.DefaultBytes()),
	}
}

// TemplateOrder is the template of the machine that the bundle would get, or, if
// dir is "", a container without limits.
func TemplateOrder(c config.Config, dir string) (*template.Order, error) {
	spec := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}}}
	if dir != "" {
		b, err := bundle.Load(dir)
		if err != nil {
			return nil, err
		}
		if c, err = c.WithAnnotations(b.Spec.Annotations); err != nil {
			return nil, err
		}
		spec = b.Spec
	}
	if c.Template == config.TemplateOff {
		return nil, errors.New("template: turned off by the configuration or the bundle")
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	assets := c.FindAssets(exe)
	h, err := host(spec, c, assets)
	if err != nil {
		return nil, err
	}
	m, err := plan.Machine(spec, c, h)
	if err != nil {
		return nil, err
	}
	return &template.Order{Store: TemplateStore(c), Machine: *m, QEMU: assets.QEMU, Virtiofsd: assets.Virtiofsd}, nil
}

// beginTemplate lets the next machine of this one's shape be cloned. The
// container is there, whatever becomes of it.
func (p *Prepared) beginTemplate() {
	s := &p.setup
	err := template.Begin(template.Order{
		Store: *s.Templates, Machine: s.Plan.Machine, QEMU: s.QEMU, Virtiofsd: s.Virtiofsd,
	})
	if err != nil {
		logrus.Debug(err)
	}
}
