import java.io.File;
import javax.servlet.Filter;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;
import org.apache.tomcat.util.descriptor.web.FilterDef;
import org.apache.tomcat.util.descriptor.web.FilterMap;
import org.springframework.web.context.support.AnnotationConfigWebApplicationContext;
import org.springframework.web.servlet.DispatcherServlet;
import org.springframework.web.servlet.config.annotation.EnableWebMvc;

/** Serves the controller Whoami, behind the filter Gate if there is one. */
public class Main {
    @EnableWebMvc
    public static class Mvc {}

    public static void main(String[] args) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(".");
        tomcat.setPort(Integer.parseInt(args[0]));
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        Context context = tomcat.addContext("", new File(".").getAbsolutePath());
        var spring = new AnnotationConfigWebApplicationContext();
        spring.register(Mvc.class, Whoami.class);
        Tomcat.addServlet(context, "spring", new DispatcherServlet(spring));
        context.addServletMappingDecoded("/", "spring");
        try {
            var gate = Class.forName("Gate").getDeclaredConstructor().newInstance();
            FilterDef filter = new FilterDef();
            filter.setFilterName("gate");
            filter.setFilter((Filter) gate);
            context.addFilterDef(filter);
            FilterMap all = new FilterMap();
            all.setFilterName("gate");
            all.addURLPattern("/*");
            context.addFilterMap(all);
        } catch (ClassNotFoundException e) {
            // The example behind a proxy has none.
        }
        tomcat.start();
        tomcat.getServer().await();
    }
}
